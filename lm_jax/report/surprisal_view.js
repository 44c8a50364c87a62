// The text coloured by the surprisal of its words, of one model or less that of another. Text stands on the
// page from the start; its words become elements, and are coloured, when they come near the part that is seen.

const SCALES = {
  word: {
    unit: "bits per word",
    edges: [2, 4, 6, 8, 11, 14, 18, 24, 32],
    differences: [0.5, 1, 2, 4, 8],
  },
  byte: {
    unit: "bits per byte",
    edges: [0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7],
    differences: [0.1, 0.25, 0.5, 1, 2],
  },
};

class Reader {
  constructor(stored) {
    this.models = stored.models.map((model) => new Model(model, stored.bits, stored.steps));
    this.box = document.getElementById("words");
    this.details = document.getElementById("details");
    this.select = {};
    for (const name of ["model", "minus", "per", "document"]) {
      this.select[name] = document.getElementById(`select-${name}`);
    }
    this.units = [];
    this.documents = [];
    this.pieces = new Map();
    this.current = -1;
    this.watch = new IntersectionObserver((seen) => {
      for (const { isIntersecting, target } of seen) if (isIntersecting) this.draw(this.pieces.get(target));
    }, { root: this.box, rootMargin: "600px 0px" });
    stored.documents.forEach((one, i) => this.addDocument(one, i));
    this.addChoices();
    this.listen();
    this.choose();
  }

  addDocument(one, number) {
    const head = element("h3");
    const body = element("div", "", "document");
    const units = unitsOf(one.text, one.whole);
    head.append(element("bdi", one.name), element("span"));
    this.documents.push({ ...one, head, first: this.units.length });
    this.box.append(head, body);
    for (const unit of units) this.units.push({ ...unit, text: one.text, document: number });
    const first = this.units.length - units.length;
    for (let place = 0, next; place < units.length; place = next) {
      next = pieceEnd(one.text, units, place);
      const from = place ? units[place - 1].end : 0;
      const to = next < units.length ? units[next - 1].end : one.text.length;
      const node = element("span", one.text.slice(from, to), "waiting");
      const piece = { node, first: first + place, end: first + next, from, to, words: null };
      for (let unit = piece.first; unit < piece.end; unit++) this.units[unit].piece = piece;
      this.pieces.set(node, piece);
      this.watch.observe(node);
      body.append(node);
    }
  }

  addChoices() {
    const models = this.models.map((model) => model.name + (model.mark && " *"));
    const options = {
      model: models,
      minus: ["no other", ...models],
      per: Object.values(SCALES).map((scale) => scale.unit),
      document: this.documents.map((one, i) => `${i + 1}. ${one.name}`),
    };
    for (const [name, labels] of Object.entries(options)) {
      this.select[name].replaceChildren(...labels.map((label, i) => {
        const option = element("option", label);
        option.value = i;
        return option;
      }));
      this.select[name].disabled = labels.length < 2;
    }
    this.select.model.value = this.models.length - 1;
  }

  listen() {
    for (const name of ["model", "minus", "per"]) {
      this.select[name].addEventListener("change", () => this.choose());
    }
    this.select.document.addEventListener("change", () => {
      const one = this.documents[this.select.document.value];
      this.box.scrollTop = one.head.offsetTop - this.box.clientTop;
      this.show(one.first);
    });
    const showAt = (event) => {
      const word = event.target.closest(".w");
      if (word) this.show(Number(word.dataset.unit));
    };
    let place = ""; // of the mouse: where the text moves below it, no word is pointed at
    this.box.addEventListener("click", showAt);
    this.box.addEventListener("pointerover", (event) => {
      const now = `${event.clientX},${event.clientY}`;
      if (now !== place) showAt(event);
      place = now;
    });
    this.box.addEventListener("focus", () => this.current < 0 && this.show(0));
    this.box.addEventListener("keydown", (event) => this.press(event));
    document.getElementById("previous").addEventListener("click", () => this.move(this.current - 1));
    document.getElementById("next").addEventListener("click", () => this.move(this.current + 1));
  }

  // What is chosen: `of(unit)` is the value that colours it, null for none.
  choose() {
    const model = this.models[this.select.model.value];
    const minus = this.models[this.select.minus.value - 1];
    const scale = Object.values(SCALES)[this.select.per.value];
    const isRate = scale === SCALES.byte;
    const one = (from, unit) => {
      const value = from.value(unit);
      if (value === null || !isRate) return value;
      return this.units[unit].bytes ? value / this.units[unit].bytes : null;
    };
    const of = (unit) => {
      const [a, b] = [one(model, unit), minus ? one(minus, unit) : 0];
      return a === null || b === null || Number.isNaN(a - b) ? null : a - b;
    };
    this.chosen = { model, minus, scale, of };
    for (const one of this.documents) this.describe(one);
    this.addLegend();
    for (const piece of this.pieces.values()) if (piece.words) this.colour(piece);
    if (this.current >= 0) this.show(this.current);
  }

  describe(one) {
    const { model, minus } = this.chosen;
    const [a, b] = [model, minus].map((chosen) => chosen ? one.rates[this.models.indexOf(chosen)] : 0);
    const shown = minus ? signed(a - b, 3) : number(a, 3);
    const rate = a === null || b === null ? "no bits/byte" : `${shown} bits/byte`;
    one.head.lastChild.textContent = rate + (one.whole ? "" : ", whole; its end is not shown");
  }

  level(value) {
    const { minus, scale } = this.chosen;
    if (value === null) return "";
    const edges = minus ? scale.differences : scale.edges;
    const level = edges.filter((edge) => Math.abs(value) >= edge).length;
    if (!level) return "";
    return minus ? `${value < 0 ? "cold" : "hot"}-${2 * level - 1}` : `hot-${level}`;
  }

  addLegend() {
    const { model, minus, scale } = this.chosen;
    const edges = minus ? scale.differences : scale.edges;
    const last = edges.length - 1;
    const above = edges.map((edge, i) => {
      const sign = minus ? "+" : "";
      const range = minus ? `+${edge}` : `${edge}–${edges[i + 1]}`;
      return [i < last ? range : `≥ ${sign}${edge}`, edge];
    });
    const below = edges.map((edge, i) => [`${i < last ? "" : "≤ "}${MINUS}${edge}`, -edge]).reverse();
    const middle = [`${minus ? "±" : "<"} ${edges[0]}`, 0];
    const shown = [...(minus ? below : []), middle, ...above];
    const items = shown.map(([label, value]) => element("li", label, this.level(value)));
    document.getElementById("legend").replaceChildren(...items);
    const blue = minus && `Blue: ${model.name} expected the word more; orange: ${minus.name} did.`;
    document.getElementById("meaning").textContent = minus
      ? `${model.name} less ${minus.name}, ${scale.unit}. ${blue}`
      : `Surprisal under ${model.name}, ${scale.unit}.`;
    document.getElementById("marks").textContent =
      [model, minus].filter((one) => one?.mark).map((one) => `* ${one.name}: ${one.mark}.`).join(" ");
  }

  // Turns the words of a piece into elements.
  draw(piece) {
    if (piece.words) return;
    const nodes = [];
    let place = piece.from;
    piece.words = [];
    for (let unit = piece.first; unit < piece.end; unit++) {
      const { text, start, end } = this.units[unit];
      nodes.push(text.slice(place, start));
      const word = element("span", text.slice(start, end));
      word.dataset.unit = unit;
      piece.words.push(word);
      nodes.push(word);
      place = end;
    }
    piece.node.className = "";
    nodes.push(this.units[piece.first].text.slice(place, piece.to)); // where a document is cut: nothing
    piece.node.replaceChildren(...nodes);
    this.watch.unobserve(piece.node);
    this.colour(piece);
  }

  colour(piece) {
    const { model, minus, of } = this.chosen;
    const models = minus ? [model, minus] : [model];
    piece.words.forEach((word, i) => {
      const unit = piece.first + i;
      const marks = [
        models.some((one) => one.isUnknown(unit)) && "unknown",
        models.some((one) => !one.count(unit)) && "covered",
        this.units[unit].start === this.units[unit].end && "end",
        unit === this.current && "current",
      ];
      word.className = ["w", this.level(of(unit)), ...marks].filter(Boolean).join(" ");
    });
  }

  word(unit) {
    const { piece } = this.units[unit];
    this.draw(piece);
    return piece.words[unit - piece.first];
  }

  move(unit) {
    if (unit < 0 || unit >= this.units.length) return;
    this.show(unit);
    this.word(unit).scrollIntoView({ block: "nearest", behavior: "instant" });
  }

  press(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    const lines = { ArrowDown: 1, ArrowUp: -1 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) this.move(this.current + steps[event.key]);
    else if (event.key in lines) this.move(this.onLine(lines[event.key]));
    else if (event.key === "Home") this.move(0);
    else if (event.key === "End") this.move(this.units.length - 1);
    else return;
    event.preventDefault();
  }

  // The unit on the next line up or down that is nearest to the current one.
  onLine(step) {
    const here = this.word(Math.max(this.current, 0)).getBoundingClientRect();
    let best = this.current, distance = Infinity, line = null;
    for (let unit = this.current + step; unit >= 0 && unit < this.units.length; unit += step) {
      const there = this.word(unit).getBoundingClientRect();
      if (Math.abs(there.top - here.top) < here.height / 2) continue;
      if (line !== null && Math.abs(there.top - line) > here.height / 2) break;
      line = there.top;
      const aside = Math.abs(there.left - here.left);
      if (aside < distance) [best, distance] = [unit, aside];
    }
    return best;
  }

  show(unit) {
    if (this.current >= 0) this.word(this.current).classList.remove("current");
    this.current = unit;
    this.word(unit).classList.add("current");
    const { text, start, end, first, bytes, document: at } = this.units[unit];
    const isEnd = start === end;
    const title = element("p", isEnd ? "the end" : text.slice(start, end), "word");
    const length = byteLength(text, start, end);
    const where = isEnd ? `what follows the last word of ${this.documents[at].name}`
      : `${this.documents[at].name}, bytes ${first}–${first + length}`;
    const place = element("p", where, "muted");
    this.details.replaceChildren(title, place, this.tableOf(unit, bytes), this.summary(unit));
  }

  tableOf(unit, bytes) {
    const table = element("table");
    const heads = element("tr");
    for (const head of ["model", "bits", "per byte", "tokens"]) heads.append(element("th", head));
    table.createTHead().append(heads);
    const body = table.createTBody();
    const most = Math.max(1, ...this.models.map((model) => model.value(unit) ?? 0).filter(Number.isFinite));
    for (const model of this.models) {
      const value = model.value(unit);
      const row = body.insertRow();
      const head = element("th", model.name, `swatch series-${model.place % 8}`);
      const meter = element("i", "", `meter series-${model.place % 8}`);
      head.scope = "row";
      meter.style.width = `${(100 * Math.min(value ?? 0, most)) / most}%`;
      head.append(meter);
      row.append(head);
      const rate = value === null || !bytes ? null : value / bytes;
      const tokens = `${model.count(unit)}${model.isUnknown(unit) ? " unknown" : ""}`;
      row.append(...[number(value), number(rate), tokens].map((cell) => element("td", cell)));
      if (model === this.chosen.model || model === this.chosen.minus) row.className = "chosen";
    }
    return table;
  }

  summary(unit) {
    const { model, minus, of, scale } = this.chosen;
    const lines = [];
    if (minus) lines.push(`Difference: ${of(unit) === null ? "none" : signed(of(unit))} ${scale.unit}.`);
    if ([model, minus].some((one) => one && !one.count(unit))) {
      lines.push("Without a token of its own: a token of the word before covers it.");
    }
    return element("p", lines.join(" "), "muted");
  }
}

const stored = document.getElementById("surprisals");
if (stored) {
  document.getElementById("reader").hidden = false;
  new Reader(JSON.parse(stored.textContent));
}

"use strict";
// The page's theme, its copy buttons, and tables that sort. All of it works on a page without these.

const element = (tag, text = "", classes = "") => {
  const made = document.createElement(tag);
  made.textContent = text; // never as HTML: it may be a user's
  made.className = classes;
  return made;
};

const addTheme = () => {
  const button = document.getElementById("theme");
  const themes = ["auto", "light", "dark"];
  const show = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  button.addEventListener("click", () => {
    const now = themes.indexOf(document.documentElement.dataset.theme);
    show(themes[(now + 1) % themes.length]);
  });
  show("auto");
  button.hidden = false;
};

const addCopying = (command) => {
  const button = element("button", "Copy");
  const text = command.querySelector("pre");
  button.type = "button";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text); // the reader copies it
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  command.append(button);
};

// Rows by a column: by `data-order` where its cells have it, with the others last, else by their letters.
const sort = (table, column, descending) => {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const text = (row) => row.cells[column].textContent;
  const order = (row) => parseFloat(row.cells[column].dataset.order);
  const byNumber = rows.some((row) => !Number.isNaN(order(row)));
  const compare = (a, b) => {
    if (byNumber) return order(a) - order(b);
    return text(a).localeCompare(text(b), "en", { numeric: true });
  };
  const missing = (row) => byNumber && Number.isNaN(order(row));
  const present = rows.filter((row) => !missing(row));
  present.sort((a, b) => (descending ? compare(b, a) : compare(a, b)));
  body.append(...present, ...rows.filter(missing));
};

const addSorting = (table) => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", head.textContent);
    button.type = "button";
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
    head.replaceChildren(button);
  });
};

addTheme();
document.querySelectorAll(".command").forEach(addCopying);
document.querySelectorAll("table.sortable").forEach(addSorting);

"""The packages of a wheel, in which configs/ is lm_jax/configs; all else is in pyproject.toml."""

import setuptools

setuptools.setup(
    packages=[*setuptools.find_packages(include=["lm_jax*"]), "lm_jax.configs"],
    package_dir={"lm_jax.configs": "configs"},
    package_data={"lm_jax.configs": ["texts/*.txt"], "lm_jax.report": ["*.css", "*.js"]},
)

"Everything that can change stands in settings.ini; this file only hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
EXTRAS = ("dev", "well", "bench", "cluster")

parser = ConfigParser(delimiters=["="])
parser.read(HERE / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
readme = HERE / "README.md"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else cfg["description"],
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    license="Apache-2.0",
    classifiers=["Intended Audience :: Science/Research", "Programming Language :: Python :: 3"],
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={extra: cfg[f"{extra}_requirements"].split() for extra in EXTRAS},
    entry_points={"nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)

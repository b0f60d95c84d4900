#!/usr/bin/env python3
"""Lists the parts of the program as an SBOM in CycloneDX 1.5 (JSON).

The parts are the crates that `synodkv` links or needs to be built, at the versions of Cargo.lock, for one target. The
same Cargo.lock gives the same bytes. Crates ending in -sys bring libraries of C or C++, and name their version behind
a plus sign: librocksdb-sys 0.19.0+11.8.1 has RocksDB 11.8.1.

    scripts/sbom.py > synodkv.cdx.json
    scripts/sbom.py --target aarch64-unknown-linux-gnu
"""

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "synodkv"


def metadata(target):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def checksums():
    """SHA-256 of the sources of each crate from a registry."""
    with open(ROOT / "Cargo.lock", "rb") as lock:
        packages = tomllib.load(lock)["package"]
    return {(package["name"], package["version"]): package["checksum"] for package in packages if "checksum" in package}


def needed(meta):
    """Each package that the program needs, with those that it needs itself. Those for tests only are left out."""
    names = {package["id"]: package["name"] for package in meta["packages"]}
    nodes = {node["id"]: node for node in meta["resolve"]["nodes"]}
    start = next(member for member in meta["workspace_members"] if names[member] == PROGRAM)
    found, waiting = {}, [start]
    while waiting:
        package = waiting.pop()
        if package in found:
            continue
        found[package] = sorted(
            dependency["pkg"] for dependency in nodes[package]["deps"]
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
        )
        waiting.extend(found[package])
    return start, found


def component(package, sums, kind):
    name, version = package["name"], package["version"]
    purl = f"pkg:cargo/{name}@{version.replace('+', '%2B')}"
    described = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if package.get("description"):
        described["description"] = " ".join(package["description"].split())
    if package.get("license"):
        described["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if (name, version) in sums:
        described["hashes"] = [{"alg": "SHA-256", "content": sums[name, version]}]
    if package.get("repository"):
        described["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return described


def sbom(target):
    meta, sums = metadata(target), checksums()
    packages = {package["id"]: package for package in meta["packages"]}
    start, found = needed(meta)
    described = {one: component(packages[one], sums, "application" if one == start else "library") for one in found}
    refs = {one: described[one]["bom-ref"] for one in found}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": described[start],
            "properties": [{"name": "cargo:target", "value": target}],
        },
        "components": sorted((described[one] for one in found if one != start), key=lambda one: one["bom-ref"]),
        "dependencies": sorted(
            ({"ref": refs[one], "dependsOn": sorted(refs[other] for other in others)} for one, others in found.items()),
            key=lambda one: one["ref"],
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="x86_64-unknown-linux-gnu", help="the target triple [default: %(default)s]")
    arguments = parser.parse_args()
    json.dump(sbom(arguments.target), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

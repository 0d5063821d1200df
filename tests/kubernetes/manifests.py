"""Manifests as objects: what manifests_test and helm_test have in common."""
import shutil
import subprocess

from cluster import ROOT, skip

try:
    import yaml
except ImportError:
    skip("no Python package yaml (Debian: python3-yaml)")

FOLDER = ROOT / "deploy/kubernetes"
VERSIONS = ["1.25.0", "1.37.0"]  # of Kubernetes, whose schemas manifests are compared with


def need(*programs):
    """Ends the test as skipped where a program is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        skip(f"no {', '.join(missing)} on PATH (deploy/dependencies/install --tests, and ctest has them there)")


def objects_of(text):
    """By "Kind/name"."""
    objects = [item for item in yaml.safe_load_all(text) if item is not None]
    named = {f"{item['kind']}/{item['metadata']['name']}": item for item in objects}
    assert len(named) == len(objects), "two of one name"
    return named


def differences(left, right, path=""):
    """Path -> (left, right) of all that differs; None where there is nothing."""
    if isinstance(left, dict) and isinstance(right, dict):
        pairs = [(str(key), left.get(key), right.get(key)) for key in sorted({*left, *right})]
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = [(str(number), *pair) for number, pair in enumerate(zip(left, right))]
    else:
        return {} if left == right and type(left) is type(right) else {path: (left, right)}
    return {key: value for step, *pair in pairs for key, value in differences(*pair, f"{path}/{step}").items()}


def validate(texts, folder):
    """Compares the manifests with the schemas of Kubernetes. It has none of Prometheus' operator, whose objects it passes over."""
    paths = [folder / f"{number}.yaml" for number in range(len(texts))]
    for path, text in zip(paths, texts):
        path.write_text(text)
    versions = [argument for version in VERSIONS for argument in ("-k", version)]
    done = subprocess.run(["kubernetes-validate", "--strict", *versions, *paths],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    compared = sum(not item["apiVersion"].startswith("monitoring.coreos.com/") for text in texts for item in objects_of(text).values())
    assert done.stdout.count(" passed for resource ") == compared * len(VERSIONS), done.stdout

"""A Kubernetes for tests, and images to run on it: what image_test and run_test have in common.

The tool `cluster` that starts it on one machine is not part of this repository: $SDP_CLUSTER names it, else it is looked for beside the
checkout. It also builds images (buildah), from a base that it makes of Debian's packages."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77  # ctest: SKIP_RETURN_CODE
IMAGES = {"server": "sdp-server:dev", "worker-cpu": "sdp-worker-cpu:dev", "worker-cuda": "sdp-worker-cuda:dev"}
PROGRAMS = {"server": ["sdp", "sdp-coordinator", "sdp-shard"], "worker-cpu": ["sdp", "sdp-worker"], "worker-cuda": ["sdp", "sdp-worker"]}


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def tool():
    """Its path; ends the test as skipped where it cannot be used."""
    path = pathlib.Path(os.environ.get("SDP_CLUSTER", ROOT.parent / "shared/kubernetes/cluster"))
    if not path.exists():
        skip(f"no {path}; SDP_CLUSTER names the tool that starts a Kubernetes on this machine")
    if os.geteuid() != 0:
        skip("containers are started as root")
    return path


def output(command, **options):
    """Standard output of a command that must succeed; what it wrote to both is in the error otherwise."""
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


class Cluster:
    """Of the tool. Used in a `with` it ends what it has started."""

    def __init__(self, build):
        self.build, self.tool = build, tool()
        self.up = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.up:
            self.call("down")

    def call(self, *arguments):
        return output([self.tool, *arguments])

    def prepare(self, *arguments):
        """What the tool does before anything of this repository is in it. Where it cannot, this machine is none for the test."""
        try:
            self.call(*arguments)
        except RuntimeError as error:
            skip(f"no cluster can be had here: {error}")

    def start(self, nodes):
        if subprocess.run([self.tool, "status"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            raise RuntimeError("a cluster is up already, and may be somebody's: end it first (cluster down)")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through __exit__
        self.up = True
        self.prepare("up", "--nodes", nodes, "--timeout", 300)

    def build_image(self, target):
        """From the programs of the build folder: compiling in an image takes an hour."""
        self.prepare("base")
        with tempfile.TemporaryDirectory() as programs:
            try:
                output([ROOT / "deploy/image/gather", self.build, programs, *PROGRAMS[target]])
            except RuntimeError as error:
                if target == "worker-cuda" and "not found:" in str(error):  # CUDA's libraries, which only a GPU needs
                    skip(str(error).splitlines()[-1])
                raise
            self.call("build-image", ROOT, "-f", ROOT / "deploy/Dockerfile", f"--target={target}",
                      f"--build-context=programs={programs}", "-t", IMAGES[target])
        return IMAGES[target]

    def buildah(self, *arguments):
        """Works with the images of the tool."""
        images = pathlib.Path(os.environ.get("SDP_KUBERNETES_STATE",
                                             pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
                                             / "sdp-kubernetes")) / "images"
        return output(["unshare", "--mount", "--propagation", "private", "--", "buildah", *arguments],
                      env={**os.environ, "HOME": str(images / "home"), "TMPDIR": str(images / "tmp"),
                           "XDG_RUNTIME_DIR": str(images / "tmp"),
                           "CONTAINERS_STORAGE_CONF": str(images / "storage.conf"),
                           "CONTAINERS_REGISTRIES_CONF": str(images / "registries.conf")})

    def kubectl(self, *arguments):
        return self.call("kubectl", *arguments)

    def get(self, *arguments):
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))


def kustomize(folder):
    """The manifests of a kustomization. The cluster's own kubectl is too old for its present form."""
    for command in ([shutil.which("kustomize"), "build"], [shutil.which("kubectl"), "kustomize"]):
        if command[0] is not None:
            return output([*command, folder])
    skip("no kubectl or kustomize on PATH")

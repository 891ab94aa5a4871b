# Package for Spack: the plugin for Spack's own LAMMPS, built by `so3krates build-plugin` from its source.
# To be put into a repository of yours, as packages/py_so3krates/package.py (`spack repo create`).
# Tried: read by Python; `so3krates build-plugin` by itself (docs/install.md). Not built: no Spack was at hand.
from spack.package import Executable, PythonPackage, depends_on, join_path, license, version, which


class PySo3krates(PythonPackage):
    """So3krates machine-learned potentials, trained in JAX, run in LAMMPS."""

    license("MIT")
    version("0.1.0")

    depends_on("python@3.11:3.13", type=("build", "run"))
    depends_on("py-pip", type="build")
    depends_on("cxx", type="build")
    depends_on("lammps@20250204: +lib", type=("build", "link", "run"))
    depends_on("mpi", type=("build", "link", "run"))

    def install(self, spec, prefix):
        """The wheel of the checkout with its dependencies from the Python index, then the plugin for this LAMMPS."""
        python = which("python3", required=True)
        python("-m", "venv", prefix.env)
        pip = Executable(prefix.env.bin.pip)
        pip("install", "--constraint", "constraints.txt", ".")
        build = Executable(join_path(prefix.env.bin, "so3krates"))
        build("build-plugin", "--lammps", spec["lammps"].prefix, "--mpi", spec["mpi"].mpicxx, "-o", prefix.plugins)

    def setup_run_environment(self, env):
        env.prepend_path("LAMMPS_PLUGIN_PATH", self.prefix.plugins)
        env.prepend_path("PATH", join_path(self.prefix, "env", "bin"))

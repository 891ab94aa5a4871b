"""The layer below the evaluator: PJRT client on the CPU plugin, memory, program cache."""

import ctypes
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from so3krates._harness import Error, pjrt
from so3krates_export.lowering import lower

SUM = 1e-6  # float32 results of order 1
MIB = 2**20
HUGE_ROWS, WIDTH, BLOCK = 2**22, 128, 64  # 2 GiB in float32
USED_ROWS = 1000  # of the huge array
UNTOUCHED = 64 * MIB  # resident bytes that a run on USED_ROWS may add
TOUCHED = 400 * MIB  # resident bytes that filling all of 512 MiB adds at least
LARGE = 2**28  # bytes of an array

SECOND = "import sys; sys.path[:0] = {path!r}\nfrom so3krates._harness import pjrt\nclient = pjrt.Client()\n{body}"


def spec(*shape: int, dtype: type = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def aligned(values: np.ndarray, offset: int = 0) -> np.ndarray:
    """A copy whose address is `offset` bytes past a multiple of 64."""
    memory = np.empty(values.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    copy = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def memory(name: str) -> int:
    """A size of this process in bytes, by its name in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def settled(name: str) -> int:
    """The size that stays: a thread of XLA that has just ended a program may hold its arrays a moment longer."""
    sizes = [-1, memory(name)]
    while sizes[-1] != sizes[-2]:
        time.sleep(0.2)
        sizes.append(memory(name))
    return sizes[-1]


@pytest.fixture(scope="module")
def client() -> pjrt.Client:
    return pjrt.Client("cpu", threads=2)


@pytest.fixture(scope="module")
def add_artifact() -> bytes:
    return lower(lambda a, b: (a + b, a * b), [spec(4), spec(4)])


@pytest.fixture(scope="module")
def increment_artifact() -> bytes:
    return lower(lambda x: x + 1.0, [spec(4096)], donated=[0])


A = np.array([1, 2, 3, 4], np.float32)
B = np.array([10, 20, 30, 40], np.float32)


def assert_adds(client: pjrt.Client, executable: pjrt.Executable) -> None:
    total, product = executable.run([client.borrow(A), client.borrow(B)])
    np.testing.assert_allclose(total.download("float32", [4]), A + B, rtol=SUM)
    np.testing.assert_allclose(product.download("float32", [4]), A * B, rtol=SUM)


# ---- programs


def test_program_runs(client: pjrt.Client, add_artifact: bytes) -> None:
    assert client.platform == "cpu"
    assert_adds(client, client.compile(add_artifact))


def test_program_is_saved_and_loaded(client: pjrt.Client, add_artifact: bytes) -> None:
    serialised = client.compile(add_artifact).serialise()
    assert len(serialised) > 1000
    assert_adds(client, client.load(serialised))


def test_objects_keep_their_client_alive(add_artifact: bytes) -> None:
    client = pjrt.Client("cpu", threads=1)
    executable = client.compile(add_artifact)
    buffers = [client.borrow(A), client.borrow(B)]
    del client
    total, _ = executable.run(buffers)
    del executable, buffers
    np.testing.assert_allclose(total.download("float32", [4]), A + B, rtol=SUM)


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (lambda c, e: c.compile(b"no program", "layer"), "compiling program 'layer' failed: .*StableHLO"),
        (lambda c, e: c.load(b"no program", "layer"), "loading compiled program 'layer' failed: "),
        (lambda c, e: e.run([c.borrow(A)]), "running program 'add' failed: .* 1 buffers .* expected 2"),
        (lambda c, e: e.run([c.borrow(A), c.borrow(A[:2])]), "running program 'add' failed: .*size 16 .* size 8"),
        (
            lambda c, e: c.borrow(A).download("float32", [5]),
            "downloading an array failed: .* buffer size 16 .* transfer size 20",
        ),
        (lambda c, e: c.borrow(A.astype(np.float16)), "dtype float16"),
        (lambda c, e: c.allocate("float64", [2**50]), "allocating 8 bytes x 1125899906842624 failed: "),
        (lambda c, e: pjrt.Client("cpu", plugin=sys.executable), f"loading the PJRT plugin {sys.executable} failed: "),
    ],
)
def test_failures_say_what_failed(
    client: pjrt.Client,
    add_artifact: bytes,
    fails: Callable[[pjrt.Client, pjrt.Executable], object],
    message: str,
) -> None:
    with pytest.raises(Error, match=message):
        fails(client, client.compile(add_artifact, "add"))


def test_cut_artifact_is_refused(client: pjrt.Client, add_artifact: bytes) -> None:
    with pytest.raises(Error, match="compiling program 'cut' failed: "):
        client.compile(add_artifact[: len(add_artifact) // 2], "cut")


def test_other_library_is_no_plugin() -> None:
    maps = Path("/proc/self/maps").read_text().splitlines()
    library = next(line.split()[-1] for line in maps if "libc.so" in line)
    with pytest.raises(Error, match="it has no symbol GetPjrtApi, so it is no PJRT plugin"):
        pjrt.Client("cpu", plugin=library)


def test_nothing_is_written_to_the_terminal(add_artifact: bytes) -> None:
    body = f"client.load(client.compile({add_artifact!r}).serialise())\nprint('ran')"
    code = SECOND.format(path=sys.path, body=body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("ran\n", "")


# ---- memory


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_values_come_back(client: pjrt.Client, dtype: str) -> None:
    values = np.arange(1, 61).astype(dtype).reshape(3, 4, 5)
    buffer = client.borrow(values)
    np.testing.assert_array_equal(buffer.download(dtype, [3, 4, 5]), values)
    np.testing.assert_array_equal(buffer.download(dtype, [7]), values.ravel()[:7])


def test_only_aligned_memory_is_aliased(client: pjrt.Client) -> None:
    values = np.arange(1.0, 101.0)
    there, beside = aligned(values), aligned(values, offset=8)
    assert client.borrow(there).pointer == there.ctypes.data
    copied = client.borrow(beside)
    assert copied.pointer != beside.ctypes.data
    np.testing.assert_array_equal(copied.download("float64", [100]), values)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_donated_array_is_updated_in_place(client: pjrt.Client, increment_artifact: bytes, is_loaded: bool) -> None:
    increment = client.compile(increment_artifact, "increment")
    if is_loaded:
        increment = client.load(increment.serialise(), "increment")
    (first,) = increment.run([client.borrow(np.zeros(4096, np.float32))])
    address = first.pointer
    (second,) = increment.run([first])
    (third,) = increment.run([second])
    assert third.pointer == address
    np.testing.assert_array_equal(third.download("float32", [4096]), 3.0)
    with pytest.raises(Error, match=r"running program 'increment' failed: .*deleted or donated"):
        increment.run([second])


def test_borrowed_memory_is_never_written(client: pjrt.Client, increment_artifact: bytes) -> None:
    values = aligned(np.zeros(4096, np.float32))
    (result,) = client.compile(increment_artifact).run([client.borrow(values)])
    np.testing.assert_array_equal(result.download("float32", [4096]), 1.0)
    np.testing.assert_array_equal(values, 0.0)


def blocks(y: jax.Array, x: jax.Array, neighbours: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows [0, count) of y from rows of x, block by block; and their sum."""

    def body(block: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y, total = carry
        start = (block * BLOCK, jnp.int32(0))
        rows = 1.0 + x[jax.lax.dynamic_slice(neighbours, start, (BLOCK, 8))].sum(axis=1)
        return jax.lax.dynamic_update_slice(y, rows, start), total + rows.sum()

    return jax.lax.fori_loop(jnp.int32(0), (count + BLOCK - 1) // BLOCK, body, (y, jnp.float32(0)))


def fill(y: jax.Array) -> jax.Array:
    return jnp.ones_like(y)


def test_loop_touches_only_the_rows_in_use(client: pjrt.Client) -> None:
    shapes = [spec(HUGE_ROWS, WIDTH), spec(64, WIDTH), spec(HUGE_ROWS, 8, dtype=jnp.int32), spec(dtype=jnp.int32)]
    program = client.compile(lower(blocks, shapes, donated=[0]))
    assert program.temporary_bytes < MIB
    x = np.ones((64, WIDTH), np.float32)
    before = settled("VmRSS")
    y, neighbours = client.allocate("float32", [HUGE_ROWS, WIDTH]), client.allocate("int32", [HUGE_ROWS, 8])
    address = y.pointer
    inputs = [client.borrow(x), neighbours, client.borrow(np.array(USED_ROWS, np.int32))]
    for _ in range(2):
        y, total = program.run([y, *inputs])
    assert y.pointer == address
    np.testing.assert_allclose(y.download("float32", [USED_ROWS, WIDTH]), 9.0)
    rounded_up = -(-USED_ROWS // BLOCK) * BLOCK
    np.testing.assert_allclose(total.download("float32", [1])[0], 9.0 * rounded_up * WIDTH, rtol=1e-4)
    assert memory("VmRSS") - before < UNTOUCHED


def test_touched_memory_is_seen(client: pjrt.Client) -> None:
    """The control of the test above."""
    rows = 2**20
    program = client.compile(lower(fill, [spec(rows, WIDTH)], donated=[0]))
    before = settled("VmRSS")
    (y,) = program.run([client.allocate("float32", [rows, WIDTH])])
    assert memory("VmRSS") - before > TOUCHED
    assert y.download("float32", [1])[0] == 1.0


def test_memory_leaves_the_process(client: pjrt.Client) -> None:
    before = settled("VmSize")
    buffers = [client.allocate("uint8", [LARGE]) for _ in range(12)]
    held = settled("VmSize")
    buffers.clear()
    after = settled("VmSize")
    assert held - after >= 12 * LARGE
    assert after - before <= LARGE


# ---- threads


def threads_of_a_client(count: int) -> int:
    """Threads that this process has more of while there is a client with `count`."""
    before = len(os.listdir("/proc/self/task"))
    client = pjrt.Client("cpu", threads=count)
    added = len(os.listdir("/proc/self/task")) - before
    del client
    return added


def test_each_client_has_the_threads_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA has a pool for arithmetic and one for runs, both of that size, whatever its variables say."""
    monkeypatch.setenv("NPROC", "7")
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    one = threads_of_a_client(1)
    assert one >= 1
    assert [threads_of_a_client(n) for n in (2, 5, 3)] == [2 * one, 5 * one, 3 * one]
    getenv = ctypes.CDLL(None).getenv  # what the process has now; os.environ is a copy
    getenv.restype = ctypes.c_char_p
    assert (getenv(b"NPROC"), getenv(b"PJRT_NPROC")) == (b"7", None)


# ---- fingerprint and cache


def test_fingerprint_tells_what_code_depends_on(client: pjrt.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.device_kind in client.fingerprint
    assert "stablehlo_current_version" in client.fingerprint
    assert pjrt.Client("cpu", threads=2).fingerprint == client.fingerprint
    assert pjrt.Client("cpu", threads=1).fingerprint != client.fingerprint
    plain = client.fingerprint
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert client.fingerprint != plain


def entry(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_cached_program_is_loaded(client: pjrt.Client, add_artifact: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"
    cache = pjrt.ProgramCache(str(folder))
    executable, loaded = pjrt.compile_or_load(client, cache, add_artifact)
    assert not loaded
    assert_adds(client, executable)
    assert folder.stat().st_mode & 0o777 == 0o700
    executable, loaded = pjrt.compile_or_load(client, pjrt.ProgramCache(str(folder)), add_artifact)
    assert loaded
    assert_adds(client, executable)
    assert cache.warning == ""


def test_one_process_compiles_for_those_that_ask_meanwhile(
    client: pjrt.Client, add_artifact: bytes, tmp_path: Path
) -> None:
    done, folder = tmp_path / "done", tmp_path / "cache"
    pjrt.compile_or_load(client, pjrt.ProgramCache(str(done)), add_artifact)
    program = entry(done)
    folder.mkdir()
    turn = folder / f"{program.stem}.turn"
    with turn.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as by another process, which stores what it has compiled
        other = subprocess.Popen(
            ["sh", "-c", 'sleep 0.3; cp "$0" "$1.part"; mv "$1.part" "$1"', program, folder / program.name]
        )
        executable, loaded = pjrt.compile_or_load(client, pjrt.ProgramCache(str(folder)), add_artifact)
        assert loaded
        assert other.wait() == 0
    assert_adds(client, executable)
    # Of one that was killed.
    (folder / program.name).unlink()
    assert turn.exists()
    assert not pjrt.compile_or_load(client, pjrt.ProgramCache(str(folder)), add_artifact)[1]
    assert entry(folder).name == program.name


def test_other_program_or_machine_has_its_own_entry(
    client: pjrt.Client, add_artifact: bytes, increment_artifact: bytes, tmp_path: Path
) -> None:
    cache = pjrt.ProgramCache(str(tmp_path))
    for count, (owner, artifact) in enumerate(
        [(client, add_artifact), (client, increment_artifact), (pjrt.Client("cpu", threads=1), add_artifact)], start=1
    ):
        assert not pjrt.compile_or_load(owner, cache, artifact)[1]
        assert len(list(tmp_path.iterdir())) == count


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:30],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: flipped(data, 0),  # magic
        lambda data: flipped(data, 25),  # key
        lambda data: flipped(data, 85),  # length
        lambda data: flipped(data, 100),  # digest
        lambda data: flipped(data, len(data) // 2),  # program
    ],
)
def test_damaged_entry_is_replaced(
    client: pjrt.Client, add_artifact: bytes, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    cache = pjrt.ProgramCache(str(tmp_path))
    pjrt.compile_or_load(client, cache, add_artifact)
    path = entry(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.find(path.stem) is None
    executable, loaded = pjrt.compile_or_load(client, cache, add_artifact)
    assert not loaded
    assert_adds(client, executable)
    assert pjrt.compile_or_load(client, cache, add_artifact)[1]


def in_its_place(path: Path, what: str) -> None:
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "full folder":
        (path / "x").mkdir(parents=True)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "link to itself":
        path.symlink_to(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "failing disc":
        path.symlink_to("/proc/self/mem")  # reading from its start is an input/output error
    else:
        path.touch()
        os.truncate(path, 2**40)


@pytest.mark.parametrize(
    "what", ["folder", "full folder", "pipe", "link to itself", "device", "failing disc", "sparse file"]
)
def test_entry_that_cannot_be_read(client: pjrt.Client, add_artifact: bytes, tmp_path: Path, what: str) -> None:
    pjrt.compile_or_load(client, pjrt.ProgramCache(str(tmp_path)), add_artifact)
    path = entry(tmp_path)
    in_its_place(path, what)
    cache = pjrt.ProgramCache(str(tmp_path))
    executable, loaded = pjrt.compile_or_load(client, cache, add_artifact)
    assert not loaded
    assert_adds(client, executable)
    assert cache.warning.startswith(f"a compiled program was not taken from {path}, but compiled anew: ")
    assert "\n" not in cache.warning
    # What can be replaced has been.
    again = pjrt.ProgramCache(str(tmp_path))
    assert pjrt.compile_or_load(client, again, add_artifact)[1] == ("folder" not in what)


def test_entry_that_xla_refuses_is_replaced(client: pjrt.Client, add_artifact: bytes, tmp_path: Path) -> None:
    cache = pjrt.ProgramCache(str(tmp_path))
    pjrt.compile_or_load(client, cache, add_artifact)
    key = entry(tmp_path).stem
    cache.store(key, b"intact, but no program")
    assert cache.find(key) == b"intact, but no program"
    assert not pjrt.compile_or_load(client, cache, add_artifact)[1]
    assert pjrt.compile_or_load(client, cache, add_artifact)[1]


def test_entry_under_anothers_name_is_ignored(tmp_path: Path) -> None:
    cache = pjrt.ProgramCache(str(tmp_path))
    cache.store("a" * 64, b"program")
    assert cache.warning == ""
    entry(tmp_path).rename(tmp_path / f"{'b' * 64}.program")
    assert cache.find("b" * 64) is None


def test_unusable_folder_costs_a_compilation(client: pjrt.Client, add_artifact: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = pjrt.ProgramCache(str(tmp_path / "file" / "cache"))
    executable, loaded = pjrt.compile_or_load(client, cache, add_artifact)
    assert not loaded
    assert_adds(client, executable)
    assert "programs are not kept" in cache.warning
    assert str(tmp_path) in cache.warning


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SO3KRATES_CACHE", raising=False)
    assert pjrt.ProgramCache().folder == "/home/someone/.cache/so3krates"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert pjrt.ProgramCache().folder == "/xdg/so3krates"
    monkeypatch.setenv("SO3KRATES_CACHE", "/ours")
    assert pjrt.ProgramCache().folder == "/ours"
    assert pjrt.ProgramCache("/given").folder == "/given"
    assert pjrt.ProgramCache("off").folder == ""
    monkeypatch.setenv("SO3KRATES_CACHE", "off")
    assert pjrt.ProgramCache().folder == ""


def test_cache_that_is_off_keeps_nothing(client: pjrt.Client, add_artifact: bytes) -> None:
    cache = pjrt.ProgramCache("off")
    for _ in range(2):
        assert not pjrt.compile_or_load(client, cache, add_artifact)[1]
    assert cache.warning == ""

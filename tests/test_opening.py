"""Files of strangers: what they only say that they have is not believed, opened or allocated."""

import io
import json
import os
import re
import resource
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import flow
from flow._core.opening import npz, text
from flow._run.checkpoint.file import _digest, read
from flow._run.checkpoint.folder import header, latest
from flow.records import Options, Record, new_run_folder, read_run
from flow.records.overview import listing, side_by_side
from flow.records.provenance import differences
from flow.records.reading import trajectories

HUGE = 4 * 10**8  # entries, of 3.2 GB


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, a study, a run, its checkpoints, and an ensemble."""
    folder = tmp_path_factory.mktemp("made")
    objective = flow.Objective(lambda p: 0.5 * (p["x"] ** 2).sum(), {"x": np.ones(2)})
    study = flow.study(objective, [0.1], t=1.0, save=5, progress=False)
    record = Record(new_run_folder("mine", "", folder), "mine", Options())
    record.keep("flow", study.flow)
    record.table("table", study.table())
    record.close("finished")
    record.folder.rename(folder / "good")
    study.save(folder / "study.nc")
    often = flow.Checkpoint(folder / "kept", gradients=10)
    flow.integrate(objective, 1.0, save=3, checkpoint=often).save(folder / "flow.nc")
    ensemble = {"ensemble": np.ones((2, 2)), "engine": "jax", "method": "Euler", "step": 0.1}
    flow.integrate(objective, 1.0, save=3, **ensemble).save(folder / "ensemble.nc")
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A good run folder beside one to be spoilt, and a study."""
    shutil.copytree(made / "good", tmp_path / "bad")
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def facts_with(**changes: Any) -> Callable[[Path], None]:
    """What changes fields of a record; None takes one out."""

    def change(folder: Path) -> None:
        file = folder / "record.json"
        facts = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))

    return change


def deep(folder: Path) -> None:
    """Nest a record deeply."""
    (folder / "record.json").write_text("[" * 100_000 + "]" * 100_000)


def linked(folder: Path) -> None:
    """Make a record a link to a file elsewhere."""
    (folder / "record.json").unlink()
    (folder / "record.json").symlink_to(folder.parent / "good" / "record.json")


RECORDS = {
    "deep": (deep, "it has more than 200 levels"),
    "infinite version": (facts_with(format_version=np.inf), "format_version must be a whole"),
    "no configuration": (facts_with(configuration=None), "configuration is missing"),
    "a checkout": (facts_with(checkout="abc"), "checkout must be null or commit, text, and"),
    "a path upwards": (facts_with(files={"../good/x.csv": "0"}), "files must be digests by the"),
    "an absolute path": (facts_with(files={"/etc/hosts": "0"}), "files must be digests by the"),
    "a link": (linked, "is not a file but a link"),
}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.quick
def test_a_bad_record_is_a_line(runs: Path, cli: Callable, name: str):
    """Assert that list and compare go on with the others, and show says what is the matter."""
    change, message = RECORDS[name]
    change(runs / "bad")
    found = [
        (1, cli("list", runs)),
        (1, cli("compare", runs / "bad", runs / "good", runs / "study.nc")),
        (2, cli("show", runs / "bad")),
    ]
    for code, (ended, told) in found:
        assert ended == code
        (line,) = [line for line in told.splitlines() if message in line]
        assert str(runs / "bad" / "record.json") in line
    assert "mine" in found[0][1][1]
    assert "the reference" in found[1][1][1]


def queue(file: Path) -> None:
    """Make a queue, which never says anything."""
    os.mkfifo(file)


def endless(file: Path) -> None:
    """Make a link to a device that never ends."""
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [Path.mkdir, queue, endless], ids=["folder", "queue", "endless"])
@pytest.mark.quick
def test_what_is_no_file(runs: Path, cli: Callable, make: Callable):
    """Assert that neither a folder, a queue nor an endless device is read, of whatever name."""
    bad = runs / "bad"
    make(bad / "x.csv")
    assert cli("list", runs)[0] == 0
    code, told = cli("show", bad)
    assert code == 2
    assert f"{bad / 'x.csv'} is not a file" in told
    (bad / "x.csv").rmdir() if make is Path.mkdir else (bad / "x.csv").unlink()
    (bad / "flow.nc").unlink()
    make(bad / "flow.nc")
    assert read_run(bad).edited == ("flow.nc",)
    for path in (bad, bad / "flow.nc"):
        assert "is not a file" in cli("show", path)[1]
    (bad / "record.json").unlink()
    make(bad / "record.json")
    assert cli("list", runs)[0] == 1
    with pytest.raises(flow.Unreadable, match="is not a file"):
        read_run(bad)


def test_a_person_may_name_a_link(runs: Path):
    """Assert that a link is followed where a person typed it, and not where a folder has it."""
    (runs / "link").symlink_to(runs / "good")
    (runs / "link.nc").symlink_to(runs / "good" / "flow.nc")
    assert read_run(runs / "link").edited == ()
    whole = flow.load(runs / "good" / "flow.nc")
    np.testing.assert_array_equal(flow.load(runs / "link.nc").theta, whole.theta)
    shutil.copy(runs / "link.nc", runs / "bad" / "flow.nc")
    (runs / "bad" / "more.nc").symlink_to(runs / "good" / "flow.nc")
    with pytest.raises(flow.Unreadable, match="is not a file but a link"):
        read_run(runs / "bad").trajectories()
    assert text(runs / "bad" / "table.csv").startswith("run,")


# ---- netCDF


def replaced(name: str, **made: Any) -> Callable[[h5py.File], None]:
    """What puts another array in the place of one."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **made)

    return change


def told(name: str, value: Any, group: str = "/") -> Callable[[h5py.File], None]:
    """What changes an attribute."""

    def change(file: h5py.File) -> None:
        file[group].attrs[name] = value

    return change


def without_the(name: str, key: str) -> Callable[[h5py.File], None]:
    """What takes an entry out of an attribute's JSON."""

    def change(file: h5py.File) -> None:
        facts = json.loads(file.attrs[name])
        del facts[key]
        file.attrs[name] = json.dumps(facts)

    return change


ZEROS = zlib.compress(bytes(2**23))


def packed(name: str, chunks: int) -> Callable[[h5py.File], None]:
    """What puts zeros in the place of an array, which take a thousandth of their size."""

    def change(file: h5py.File) -> None:
        del file[name]
        shape = {"shape": (chunks * 2**10, 2**10), "chunks": (2**10, 2**10)}
        made = file.create_dataset(name, dtype="f8", compression="gzip", **shape)
        for i in range(chunks):
            made.id.write_direct_chunk((i * 2**10, 0), ZEROS)

    return change


def a_large_chunk(file: h5py.File) -> None:
    """A chunk of 3.2 GB, of which one row is the array."""
    del file["theta"]
    shape = {"shape": (1, 2), "maxshape": (None, 2), "chunks": (HUGE // 2, 2)}
    made = file.create_dataset("theta", dtype="f8", compression="gzip", **shape)
    made.id.write_direct_chunk((0, 0), ZEROS)


def elsewhere(link: Any) -> Callable[[h5py.File], None]:
    """What makes an array a link."""

    def change(file: h5py.File) -> None:
        del file["theta"]
        file["theta"] = link

    return change


def virtual(file: h5py.File) -> None:
    """An array that is put together of other files'."""
    del file["theta"]
    layout = h5py.VirtualLayout((5, 2), "f8")
    layout[:] = h5py.VirtualSource("good/flow.nc", "theta", (5, 2))
    file.create_virtual_dataset("theta", layout)


NETCDF = {
    "3.2 GB": (replaced("theta", shape=(2, HUGE // 2), dtype="f8"), "the file lacks it"),
    "3.2 GB of chunks": (
        replaced("theta", shape=(2, HUGE // 2), dtype="f8", chunks=(1, 100)),
        "the file lacks it",
    ),
    "one chunk of 3.2 GB": (a_large_chunk, "ask for more than 67,108,864 bytes"),
    "packed": (packed("theta", 400), "ask for more than 67,108,864 bytes"),
    "external storage": (
        replaced("theta", shape=(5, 2), dtype="f8", external=[("good/table.csv", 0, 80)]),
        "theta lies in other files",
    ),
    "virtual": (virtual, "theta lies in other files"),
    "an external link": (elsewhere(h5py.ExternalLink("good/flow.nc", "/theta")), "is a link"),
    "a soft link": (elsewhere(h5py.SoftLink("/loss")), "is a link"),
    "objects": (replaced("theta", data=["a", "b"]), "theta is no array of numbers"),
    "no configuration": (lambda file: file.attrs.pop("config"), "config is missing"),
    "no label": (without_the("config", "label"), "config.label is missing"),
    "no end": (without_the("stats", "t_end"), "stats.t_end is missing"),
    "stats a list": (told("stats", "[]"), "stats must be anything by name"),
    "deep stats": (told("stats", "[" * 10**5), "stats has more than 200 levels"),
    "no structure": (told("structure", '{"list": [{"cube": []}]}'), "structure must be made of"),
    "a large structure": (told("structure", '{"shape": [400000000]}'), "not that of 2 parameters"),
    "an infinite version": (told("format_version", np.inf), "format_version must be a whole"),
    "other times": (replaced("loss", data=np.ones(3)), r"loss has shape \(3,\), and t"),
    "no times": (replaced("t", data=np.ones(0)), r"t must be \(times,\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETCDF)
@pytest.mark.quick
def test_a_bad_run_names_itself_and_the_field(
    runs: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Assert one typed error, without other files opened or memory taken."""
    monkeypatch.chdir(runs)
    change, message = NETCDF[name]
    file = runs / "bad" / "flow.nc"
    with h5py.File(file, "r+") as content:
        change(content)
    assert file.stat().st_size < 4_000_000
    with pytest.raises(flow.Unreadable, match=f"{re.escape(str(file))} cannot be read.*{message}"):
        flow.load(file)


@pytest.mark.quick
def test_a_limit_can_be_raised(runs: Path):
    """Assert that what is packed tightly can be read by who wants it, and less be allowed."""
    file = runs / "study.nc"
    flow.load_study(file)
    with pytest.raises(flow.Unreadable, match="ask for more than 500 bytes, of a file of"):
        flow.load_study(file, max_bytes=500)
    with pytest.raises(ValueError, match="max_bytes must be a positive integer"):
        flow.load_study(file, max_bytes=0)
    with h5py.File(runs / "bad" / "flow.nc", "r+") as content:
        for name in [k for k in content if ":" in k or k in ("loss", "gradient_norm", "t")]:
            del content[name]
        packed("theta", 9)(content)
        for name in ("t", "loss", "gradient_norm"):
            content[name] = np.arange(9 * 2.0**10)
        content.attrs["structure"] = "null"
    with pytest.raises(flow.Unreadable, match="max_bytes= of flow.load and flow.load_study"):
        flow.load(runs / "bad" / "flow.nc")
    theta = flow.load(runs / "bad" / "flow.nc", max_bytes=2**27).theta
    assert theta.shape == (9 * 2**10, 2**10)
    assert not theta.any()


@pytest.mark.quick
def test_a_study_of_more_runs_than_there_are(runs: Path):
    """Assert an answer at once."""
    for facts, message in {
        '{"runs": 1000000000, "compared": [0]}': "facts.runs is 1000000000, and 1 are there",
        '{"runs": 1, "compared": [7]}': r"facts.compared must be of 1 runs, got \[7\]",
        '{"runs": Infinity, "compared": []}': "facts.runs must be a whole number, got inf",
        "[]": "facts must be anything by name",
    }.items():
        with h5py.File(runs / "study.nc", "r+") as file:
            file.attrs["facts"] = facts
        with pytest.raises(flow.Unreadable, match=message):
            flow.load_study(runs / "study.nc")


# ---- npz


def archive(file: Path, shape: tuple[int, ...], data: bytes, packing: int) -> None:
    """An npz with one array, of a shape that it says."""
    header = io.BytesIO()
    facts = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    with zipfile.ZipFile(file, "w", packing) as made, made.open("a.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(100):
            member.write(data)


@pytest.mark.quick
def test_an_npz_has_what_it_says(tmp_path: Path):
    """Assert a refusal before memory is taken, of shapes, of packed zeros, and of objects."""
    archive(tmp_path / "shape.npz", (HUGE,), bytes(8), zipfile.ZIP_STORED)
    with pytest.raises(ValueError, match=r"a says that its shape is \(400000000,\), and has 800 b"):
        npz(tmp_path / "shape.npz")
    archive(tmp_path / "packed.npz", (10**7,), bytes(8 * 10**5), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"of \d+,\d+ bytes it asks for 80,000,\d+"):
        npz(tmp_path / "packed.npz")
    with pytest.raises(flow.Unreadable, match=r"packed\.npz can't be read as a checkpoint"):
        read(tmp_path / "packed.npz")
    archive(tmp_path / "good.npz", (100,), bytes(8), zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(npz(tmp_path / "good.npz")["a"], np.zeros(100), strict=True)
    np.savez(tmp_path / "objects.npz", a=np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="a is of object, and neither numbers nor text"):
        npz(tmp_path / "objects.npz")


# ---- every field of every format by each of some twenty values

MISSING = object()
VALUES = {
    "missing": MISSING,
    "null": None,
    "true": True,
    "NaN": np.nan,
    "infinity": np.inf,
    "minus one": -1,
    "fraction": 0.5,
    "large": 10**12,
    "very large": 10**400,
    "empty": "",
    "word": "abc",
    "long": "a" * 10**6,
    "deep": json.loads("[" * 250 + "]" * 250),
    "list": [1, 2],
    "nothing listed": [],
    "nothing by name": {},
    "other type": {"a": [1]},
    "upwards": "../../x",
    "absolute": "/etc/hosts",
    "URL": "http://127.0.0.1:1/x",
    "control": "\x1b]0;x\x07",
    "markup": "<img src=x onerror=x>",
}
MADE = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "exec",
        "socket.connect", "socket.getaddrinfo", "os.remove", "os.rename"}  # fmt: skip
watched: dict[str, Any] = {"folder": None, "met": []}


def watch(event: str, arguments: tuple) -> None:
    """Note what is executed, connected to, or opened outside of a folder, or to be written."""
    if watched["folder"] is None:
        return
    if event == "open" and not isinstance(arguments[0], int):
        inside = os.path.abspath(os.fsdecode(arguments[0])).startswith(watched["folder"])  # noqa: PTH100
        if inside and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event not in MADE:
        return
    watched["met"].append((event, arguments))


sys.addaudithook(watch)


def places(tree: Any, at: tuple = ()) -> Iterator[tuple]:
    """Every place in a tree, of lists the first."""
    yield at
    inner = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree[:1] if isinstance(tree, list) else ())
    )
    for key, value in inner:
        yield from places(value, (*at, key))


def put(tree: Any, at: tuple, value: Any) -> Any:
    """The tree with a value at a place."""
    if not at:
        return value
    tree = tree.copy()
    if value is MISSING and len(at) == 1:
        del tree[at[0]]
    else:
        tree[at[0]] = put(tree[at[0]], at[1:], value)
    return tree


def cases(tree: Any) -> Iterator[tuple[str, Any]]:
    """The tree with each of its places by each of the values, and which it is."""
    for at in places(tree):
        for name, value in VALUES.items():
            if at or value is not MISSING:
                yield f"{at} {name}", put(tree, at, value)


def of_records(folder: Path) -> Iterator[tuple[str, Callable, Callable]]:
    """What spoils a record, and what is done with it."""
    file, other = folder / "bad" / "record.json", read_run(folder / "good")

    def use() -> None:
        run = read_run(folder / "bad")
        assert set(run.edited) <= set(run.facts.get("files", {}))
        assert len(listing([run, other])) == 2
        differences(run.facts, other.facts)

    for name, facts in cases(json.loads(file.read_text())):
        yield name, partial(file.write_text, json.dumps(facts)), use


def used(file: Path) -> None:
    """What is done with a run that was read, or with runs."""
    for run in trajectories(file).values():
        assert repr(run).startswith("<Trajectory")
        single = run if run.members is None else run.member(0)
        assert np.isfinite(single.units)
        assert single.structure is None or single.params(-1) is not None
        flow.audit(single)
    side_by_side([(path, trajectories(path)) for path in (file.with_name("flow.nc"), file)])


TREES = ("config", "stats", "structure", "versions", "facts")


def of_netcdf(folder: Path, which: str) -> Iterator[tuple[str, Callable, Callable]]:
    """What spoils a run, a study or an ensemble, and what is done with it."""
    good, file = (folder / which).read_bytes(), folder / "bad.nc"
    use = partial(used, file)
    with h5py.File(folder / which) as content:
        named = {g: dict(content[g].attrs) for g in ("/", "flow") if g in content}

    def spoil(group: str, name: str, value: Any) -> None:
        file.write_bytes(good)
        with h5py.File(file, "r+") as content:
            del content[group].attrs[name]
            if value is not MISSING:
                content[group].attrs[name] = value

    for group, attributes in named.items():
        for name, value in attributes.items():
            if name.startswith("_"):
                continue
            for what, other in VALUES.items():
                # HDF5 has integers of 64 bits.
                fits = isinstance(other, str | bool | float) or (
                    isinstance(other, int) and other < 2**63
                )
                if other is MISSING or fits:
                    yield f"{group} {name} {what}", partial(spoil, group, name, other), use
            for what, tree in cases(json.loads(value)) if name in TREES else ():
                yield f"{group} {name} {what}", partial(spoil, group, name, json.dumps(tree)), use


def of_checkpoints(folder: Path) -> Iterator[tuple[str, Callable, Callable]]:
    """What spoils a checkpoint, by somebody who makes its digest anew; and what reads it."""

    def spoil(file: Path, arrays: dict, facts: Any) -> None:
        arrays = arrays | {"tree": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
        digest = np.frombuffer(_digest(arrays), np.uint8)
        np.savez(file, **arrays, digest=digest)

    def use() -> None:
        latest(folder / "kept", header(folder / "kept")["run"])

    for pattern in ("run.npz", "state-*", "rows-*"):
        file = max((folder / "kept").glob(pattern))
        good = file.read_bytes()
        arrays = npz(file)
        del arrays["digest"]
        for name, facts in cases(json.loads(arrays.pop("tree").tobytes())):
            yield f"{pattern} {name}", partial(spoil, file, arrays, facts), use
        file.write_bytes(good)


CORPUS = {
    "records": of_records,
    "runs": partial(of_netcdf, which="flow.nc"),
    "studies": partial(of_netcdf, which="study.nc"),
    "ensembles": partial(of_netcdf, which="ensemble.nc"),
    "checkpoints": of_checkpoints,
}


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.large), 40])
@pytest.mark.parametrize("which", CORPUS)
@pytest.mark.filterwarnings("ignore::flow.CheckpointWarning")
def test_any_field_may_be_anything(runs: Path, which: str, every: int):
    """Assert a typed error or an answer, with nothing executed, written or opened elsewhere."""
    for _, _, use in islice(CORPUS[which](runs), 1):
        shutil.copy(runs / "flow.nc", runs / "bad.nc")
        use()  # what is imported once
    before, refused, tried = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, 0
    for name, spoil, use in islice(CORPUS[which](runs), None, None, every):
        spoil()
        began, watched["folder"] = time.process_time(), str(runs)
        try:
            use()
        except (flow.Unreadable, FileNotFoundError):
            refused += 1
        except Exception as error:
            error.add_note(name)
            raise
        finally:
            watched["folder"] = None
        tried += 1
        assert time.process_time() - began < 1.0, name
        assert watched["met"] == [], name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert refused > tried / 4
    assert tried * every > 300


def test_what_an_earlier_flow_wrote_opens(tmp_path: Path):
    """Assert ½‖x‖²'s flow and descents in files of before, a record, and an older checkpoint."""
    written, start = Path(__file__).with_name("written_before"), np.array([1.0, -2.0])
    path = flow.load(written / "run.nc")
    np.testing.assert_allclose(path.theta, np.exp(-path.t)[:, None] * start, rtol=1e-6)
    np.testing.assert_array_equal(path.observed["first"], path.theta[:, 0])
    np.testing.assert_array_equal(path.params(-1)["x"], path.theta[-1])
    runs = flow.load(written / "ensemble.nc")
    np.testing.assert_allclose(runs.theta[:, -1], np.outer([0.5**2, 0.75**4], start), rtol=1e-14)
    study = flow.load_study(written / "study.nc")
    gaps = [np.abs(run.theta[-1] - study.flow.theta[-1]) for run in study.runs]
    found = [pair.distance[-1] for pair in study.comparison.pairs]
    np.testing.assert_allclose(found, np.linalg.norm(gaps, axis=1), rtol=1e-6)
    run = read_run(written / "record")
    assert run.facts["experiment"] == "gd_vs_flow"
    missing = {"configuration.json", "descent-1.nc", "figure.png", "flow.nc"}
    assert set(run.edited) == missing
    folder = shutil.copytree(written / "checkpoint", tmp_path / "checkpoint")
    objective = flow.Objective(lambda p: 0.5 * (p["x"] ** 2).sum(), {"x": start})
    with pytest.raises(ValueError, match=r"checkpoint.* format 1"):
        flow.resume(folder, objective)

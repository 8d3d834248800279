"""Opens a file as data: a regular one, of bounded size, each field of its kind, nothing executed.

Whoever sends a file decides what is in it. What can't be read is an `Unreadable` that names the
file and the field, before memory is taken for what the file only says that it has.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from zipfile import ZipFile

import numpy as np

from flow._core.checks import LARGEST, file_path, positive_integer

if TYPE_CHECKING:
    import h5py

# Bytes that may be taken for a file, whatever it says; of a large one, so many times its size.
LEAST, TIMES = 2**26, 20
# Bytes of text, JSON's levels, and bytes that one of its values takes.
MOST_TEXT, DEEPEST, OF_A_VALUE = 2**25, 200, 32
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]|,', re.DOTALL)
# HDF5's own filters: deflate, shuffle, Fletcher's checksum. For others it would load libraries.
_FILTERS = {1, 2, 3}


class Unreadable(ValueError):  # noqa: N818
    """A file can't be read as what it should be; the message names it, and the field."""


@dataclass(frozen=True)
class Kind:
    """A kind of field, in words and as a test.

    >>> TEXT.check("result", 3)
    Traceback (most recent call last):
    ValueError: result must be text, got 3
    """

    words: str
    fits: Callable[[Any], bool]

    def check(self, field: str, value: Any) -> Any:
        """Return the value if it is one."""
        if not self.fits(value):
            raise ValueError(f"{field} must be {self.words}, got {value!r:.60}")
        return value

    def __or__(self, other: "Kind") -> "Kind":
        """Return either of two; of one it is that."""
        if other is self:
            return self
        return Kind(f"{self.words} or {other.words}", lambda x: self.fits(x) or other.fits(x))


def many(of: Kind) -> Kind:
    """Return a list of a kind."""
    return Kind(f"a list of {of.words}", lambda x: isinstance(x, list) and all(map(of.fits, x)))


def named(of: Kind) -> Kind:
    """Return a kind by name."""
    return Kind(
        f"{of.words} by name",
        lambda x: isinstance(x, dict) and all(isinstance(k, str) for k in x)
        and all(map(of.fits, x.values())),
    )  # fmt: skip


def _is_whole(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and abs(x) <= LARGEST


def _is_number(x: Any) -> bool:
    return isinstance(x, float) or _is_whole(x)


ANY = Kind("anything", lambda _: True)
NOTHING = Kind("null", lambda x: x is None)
TEXT = Kind("text", lambda x: isinstance(x, str))
FLAG = Kind("true or false", lambda x: isinstance(x, bool))
WHOLE = Kind("a whole number", _is_whole)
NUMBER = Kind("a number", _is_number)
COUNT = Kind("a number of at most 2⁶³", lambda x: _is_number(x) and abs(x) <= LARGEST)
# Of a run.
KIND = Kind("'flow' or 'descent'", lambda x: isinstance(x, str) and x in ("flow", "descent"))
# A file beside the one that names it.
NAME = Kind(
    "the name of a file in its folder",
    lambda x: isinstance(x, str) and x not in ("", ".", "..") and not re.search(r"[/\\:\0]", x),
)


def check_fields(
    facts: Any, needed: Mapping[str, Kind], optional: Mapping[str, Kind], of: str = ""
) -> dict[str, Any]:
    """Return facts whose fields are of their kinds; `of` is what they are the fields of.

    >>> check_fields({"t": 1.0}, {"t": NUMBER}, {"label": TEXT})
    {'t': 1.0}
    """
    named(ANY).check(of or "it", facts)
    for name, kind in (optional | needed).items():
        field = f"{of}.{name}" if of else name
        if name in facts:
            kind.check(field, facts[name])
        elif name in needed:
            raise ValueError(f"{field} is missing")
    return facts


@contextmanager
def reading(what: str, remedy: str = "") -> Iterator[None]:
    """Make an `Unreadable` that says of what it is of all that is raised but of a missing file."""
    try:
        yield
    except (Unreadable, FileNotFoundError):
        raise
    except Exception as error:
        told = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise Unreadable(f"{what} ({told}){remedy}") from error


def opened(path: str | os.PathLike, *, own: bool = False) -> BinaryIO:
    """Open a regular file to be read.

    Parameters
    ----------
    path
        Its name.
    own
        Whether it was a file or a listing that named it, and not a person: then it may not be a
        link, which might lead out of its folder.

    Raises
    ------
    FileNotFoundError, PermissionError
        It is not there, or not to be read.
    Unreadable
        It is a folder, a device, a queue, or a link where it may not be.
    """
    path = file_path("path", path)
    look = os.lstat if own else os.stat  # before it is opened: that alone may do something
    if not stat.S_ISREG(look(path).st_mode):
        linked = " but a link, which may lead anywhere" if path.is_symlink() and own else ""
        raise Unreadable(f"{path} is not a file{linked}")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags | (getattr(os, "O_NOFOLLOW", 0) if own else 0))
    return os.fdopen(handle, "rb")


def text(path: Path) -> str:
    """Return the text of a file that a listing named."""
    with opened(path, own=True) as file:
        found = file.read(MOST_TEXT + 1)
    if len(found) > MOST_TEXT:
        raise Unreadable(f"{path} has more than {MOST_TEXT:,} bytes of text")
    return found.decode(errors="replace")


def from_json(text: str, limit: float = LEAST, what: str = "it") -> Any:
    """Return JSON of bounded depth, that takes no more than so many bytes; `what` it is.

    >>> from_json('{"t": [1, 2]}')
    {'t': [1, 2]}
    >>> from_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: it has more than 200 levels

    Raises
    ------
    ValueError
        It is none.
    """
    depth, most = 0, limit / OF_A_VALUE
    for count, token in enumerate(_TOKENS.finditer(text)):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0][:1], 0)
        if depth > DEEPEST:
            raise ValueError(f"{what} has more than {DEEPEST} levels")
        if count > most:
            raise ValueError(f"{what} has more than {most:,.0f} values")
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{type(error).__name__} of {what}: {error}") from error


def npz(path: Path, limit: int = LEAST) -> dict[str, np.ndarray]:
    """Return the arrays of an npz that a listing named: numbers and text, never a pickle.

    Sizes are compared before anything is allocated: each array's with that of its part of the file,
    and all of them with what the file has, or `limit` bytes where it is packed. Checksums are
    looked at.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It holds something else; other errors are those of `zipfile` and numpy.
    """
    with opened(path, own=True) as file, ZipFile(file) as archive:
        parts = archive.infolist()
        size = os.fstat(file.fileno()).st_size
        if (asked := sum(part.file_size for part in parts)) > max(size, limit):
            raise ValueError(f"of {size:,} bytes it asks for {asked:,}")
        found: dict[str, np.ndarray] = {}
        for part in parts:
            name = part.filename.removesuffix(".npy")
            if name in found or name == part.filename:
                raise ValueError(f"{part.filename!r} is no array, or there twice")
            with archive.open(part) as member:
                _check_array(name, member, part.file_size)
            with archive.open(part) as member:
                found[name] = np.lib.format.read_array(member, allow_pickle=False)
    return found


def _check_array(name: str, member: Any, size: int) -> None:
    """Refuse an array that is larger than its part of the file, or of objects."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = read[np.lib.format.read_magic(member)](member)
    if dtype.hasobject or dtype.fields or not dtype.itemsize or dtype.kind not in "fiubcVU":
        raise ValueError(f"{name} is of {dtype}, and neither numbers nor text")
    has = size - member.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != has:
        raise ValueError(f"{name} says that its shape is {shape}, and has {has:,} bytes")


@contextmanager
def netcdf(
    path: str | os.PathLike,
    formats: Mapping[str, int],
    max_bytes: int | None = None,
    *,
    own: bool = False,
) -> Iterator["NetCDF"]:
    """Open a netCDF file of flow's, of one of the formats, none newer than the version given.

    Parameters
    ----------
    path, own
        As in `opened`.
    formats
        Format -> version.
    max_bytes
        What its arrays may take; 64 MiB, or of a file larger than 3 MB twenty times its size,
        unless given.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    Unreadable
        It is truncated, or not of these formats, or of a newer one.
    """
    path = file_path("path", path)
    if not path.exists() or path.is_dir():
        raise FileNotFoundError(f"{path} is not a file; give one that flow saved")
    if max_bytes is not None:
        positive_integer("max_bytes", max_bytes)
    import h5py

    # Of the file itself, not of its name: what HDF5 is told to open beside it is not there.
    with opened(path, own=own) as file:
        size = os.fstat(file.fileno()).st_size
        limit = max(LEAST, TIMES * size) if max_bytes is None else max_bytes
        with reading(f"{path} cannot be read as netCDF", "; is it truncated?"):
            hdf5 = h5py.File(file, "r")
        with hdf5:
            found = NetCDF(path, hdf5, limit, size)
            found.check_format(formats)
            yield found


class NetCDF:
    """An open netCDF file, of which groups' attributes and arrays are read by name.

    Attributes
    ----------
    path
        Its name.
    format
        What it holds.
    limit
        Bytes that its arrays may take.
    """

    def __init__(self, path: Path, file: "h5py.File", limit: int, size: int) -> None:
        self.path, self._file, self.limit, self._left, self._size = path, file, limit, limit, size
        self.format: Any = None

    def check_format(self, formats: Mapping[str, int]) -> None:
        """Refuse another format, or a newer one."""
        told = self.attributes("/", ("format", "format_version", "_NCProperties"))
        if "_NCProperties" not in told:
            raise Unreadable(f"{self.path} cannot be read as netCDF; it is other HDF5")
        self.format = told.get("format")
        if self.format not in tuple(formats):
            readers = {"flow trajectory": "flow.load", "flow study": "flow.load_study"}
            reader = readers.get(self.format) if isinstance(self.format, str) else None
            what = f"a {self.format}, which {reader} reads" if reader else "nothing of flow's"
            raise Unreadable(
                f"{self.path} is netCDF, but not a {' nor a '.join(formats)}; it is {what}"
            )
        with reading(f"{self.path} cannot be read"):
            version = WHOLE.check("format_version", told.get("format_version"))
        if version > formats[self.format]:
            raise Unreadable(
                f"{self.path} has format {version}, newer than this flow's "
                f"{formats[self.format]}; upgrade gradient-flow"
            )

    def json(self, name: str, text: str) -> Any:
        """Return what an attribute says, of that name."""
        return from_json(text, max(self.limit, LEAST), name)

    def attributes(self, group: str, names: tuple[str, ...]) -> dict[str, Any]:
        """Return attributes of a group, texts and numbers, by name; missing ones are left out."""
        import h5py

        found = {}
        with reading(f"{self.path} cannot be read as netCDF", "; is it truncated?"):
            of = self._group(group)
            for name in names:
                if name not in of.attrs:
                    continue
                attribute = of.attrs.get_id(name)
                plain = {h5py.h5t.STRING, h5py.h5t.INTEGER, h5py.h5t.FLOAT}
                if (
                    attribute.get_type().get_class() not in plain
                    or attribute.get_space().get_simple_extent_npoints() > 1
                    or attribute.get_storage_size() > self._size
                ):
                    raise ValueError(f"attribute {name} of {group} is neither a number nor a text")
                value = of.attrs[name]
                value = "" if isinstance(value, h5py.Empty) else np.ravel(value)[0]
                found[name] = value.item() if isinstance(value, np.generic) else value
                if isinstance(found[name], bytes):
                    found[name] = found[name].decode()
        return found

    def groups(self) -> list[str]:
        """Return names of the groups in it."""
        import h5py

        with reading(f"{self.path} cannot be read as netCDF", "; is it truncated?"):
            inside = self._group("/")
            return [k for k in self._names("/") if isinstance(inside[k], h5py.Group)]

    def arrays(self, group: str, wanted: re.Pattern) -> dict[str, np.ndarray]:
        """Return arrays of numbers in a group whose names match, in float64."""
        with reading(f"{self.path} cannot be read as netCDF", "; is it truncated?"):
            of = self._group(group)
            names = [name for name in self._names(group) if wanted.fullmatch(name)]
            for name in names:
                self._allow(f"{name} of {group}" if group != "/" else name, of[name])
            return {name: np.asarray(of[name][()], np.float64) for name in names}

    def _group(self, name: str) -> "h5py.Group":
        import h5py

        if name != "/" and name not in self._names("/"):
            raise ValueError(f"group {name} is missing")
        found = self._file[name]
        if not isinstance(found, h5py.Group):
            raise ValueError(f"{name} is no group")  # noqa: TRY004 - of a file
        return found

    def _names(self, group: str) -> list[str]:
        """Return what is in a group; links are refused."""
        import h5py

        of = self._file[group]
        for name in of:
            if not isinstance(of.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name} of {group} is a link, which may lead anywhere")  # noqa: TRY004
        return list(of)

    def _allow(self, name: str, array: Any) -> None:
        """Refuse an array that is not in the file as it says, or larger than the limit."""
        import h5py

        if not isinstance(array, h5py.Dataset) or array.dtype.kind != "f":
            raise ValueError(f"{name} is no array of numbers")
        made = array.id.get_create_plist()
        if array.external or array.is_virtual:
            raise ValueError(f"{name} lies in other files, which are not opened")
        if any(made.get_filter(i)[0] not in _FILTERS for i in range(made.get_nfilters())):
            raise ValueError(f"{name} is packed in a way that is not flow's")
        whole = array.id.get_storage_size() >= array.nbytes
        taken = array.nbytes
        if array.chunks is not None:
            shares = zip(array.shape, array.chunks, strict=True)
            chunks = math.prod(-(-length // chunk) for length, chunk in shares)
            whole = array.size == 0 or array.id.get_num_chunks() == chunks
            taken = max(taken, math.prod(array.chunks) * array.dtype.itemsize)
        if not whole:
            raise ValueError(f"{name} says that its shape is {array.shape}, and the file lacks it")
        self._left -= taken
        if self._left < 0:
            raise ValueError(
                f"{name} and those before ask for more than {self.limit:,} bytes, of a file of "
                f"{self._size:,}; max_bytes= of flow.load and flow.load_study allows more"
            )

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tersor.core.errors import ConfigError, FormatError
from tersor.store.layout import (
    FOLDER,
    FolderLayout,
    KeptFile,
    TensorFile,
    check_paths,
    layout_of,
    squeeze,
    unsqueeze,
)

LAYOUT = FolderLayout(
    files=[
        TensorFile(path="a.safetensors", tensors=2, metadata={"format": "pt"}),
        TensorFile(path="b/c.bin", tensors=1, prefix="b/c.bin:", ties=[[1, 0]], versions={"": {}}),
        KeptFile(path="config.json", bytes=30, deflated=True),
    ]
)
NAMES = ["x", "y", "b/c.bin:x", "file:config.json"]


def plain(layout):
    return {FOLDER: layout.model_dump(mode="json", exclude_defaults=True)}


def test_a_layout_comes_back_from_the_metadata():
    assert layout_of(plain(LAYOUT)) == LAYOUT
    assert layout_of({}) is None
    assert layout_of({FOLDER: "a text of a safetensors file"}) is None


def test_each_file_has_its_part_of_the_names():
    parts = [(file.path, list(names)) for file, names in LAYOUT.parts(NAMES)]
    assert parts == [
        ("a.safetensors", ["x", "y"]),
        ("b/c.bin", ["b/c.bin:x"]),
        ("config.json", ["file:config.json"]),
    ]
    assert LAYOUT.weights(NAMES) == NAMES[:3]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (NAMES[:3], "its files have 4 tensors, but there are 3"),
        ([*NAMES, "z"], "its files have 4 tensors, but there are 5"),
        (["x", "b/c.bin:x", "y", "z"], "'y' of 'b/c.bin' lacks 'b/c.bin:'"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, match):
    with pytest.raises(FormatError, match=match):
        LAYOUT.weights(names)


@pytest.mark.parametrize(
    ("file", "match"),
    [
        ({"path": "a"}, r"tersor\.folder\.files\.0"),
        ({"path": "a.bin", "tensors": -1}, r"files\.0.*greater than or equal to 0"),
        ({"path": "a.bin", "tensors": 1.0}, r"files\.0"),
        ({"path": "a.bin", "tensors": True}, r"files\.0"),
        ({"path": "a.bin", "tensors": 1, "mode": 3}, r"files\.0"),
        ({"path": "a.bin", "tensors": 1, "ties": [[1]]}, r"files\.0"),
        ({"path": 3, "bytes": 1}, r"files\.0"),
        ({"path": "../a", "bytes": 1}, r"tersor\.folder: the path '\.\./a' is none within"),
    ],
)
def test_a_damaged_layout_is_refused(file, match):
    with pytest.raises(FormatError, match=match):
        layout_of({FOLDER: {"files": [file]}})


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/passwd", "..", "../a", "a/../../b", "a/..", ".", "./a", "a//b", "a/"),
        *(
            "\\a",
            "a\\..\\..\\b",
            "C:/a",
            "C:\\a",
            "a\0b",
            "a\nb",
            ". /a",
            ".. /a",
            " ",
            "...",
            "\ud800",
        ),
    ],
)
def test_a_path_that_leads_out_or_is_no_name_everywhere_is_refused(path):
    with pytest.raises(ConfigError, match="is none within a folder on every system"):
        check_paths(["fine.json", path])


@pytest.mark.parametrize(
    ("paths", "match"),
    [
        (["a", "b", "a"], "'a' comes twice"),
        (["a/b", "a"], "'a' is a file and a folder"),
        (["a", "a/b/c"], "'a' is a file and a folder"),
    ],
)
def test_paths_that_cannot_be_together_are_refused(paths, match):
    with pytest.raises(ConfigError, match=match):
        check_paths(paths)


def test_usual_paths_are_taken():
    check_paths(["config.json", "unet/model.safetensors", "unet/a b.c", "..a", "é/ü", ".hidden"])


@given(header=st.binary(max_size=200))
def test_a_header_is_squeezed_without_loss(header):
    assert unsqueeze(squeeze(header)) == header


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (3, "a header is 3, expected a text"),
        ("é", "cannot be read"),
        ("====", "cannot be read"),
        (squeeze(b"abc" * 9)[:-8], "cut short"),
        ("AAAA", "cannot be read"),
    ],
)
def test_a_damaged_header_is_refused(text, match):
    with pytest.raises(FormatError, match=match):
        unsqueeze(text)


def test_a_header_that_swells_beyond_all_bounds_is_refused():
    with pytest.raises(FormatError, match="longer than it may be"):
        unsqueeze(squeeze(bytes(100_000_001)))

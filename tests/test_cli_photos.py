"""Photos that commands read, and where their results go."""

import pathlib

import pytest

from keras_sepvit.cli.photos import check_outputs, outputs_of, photos_of

pytestmark = pytest.mark.once

IN_A = ["a/deep/x.jpg", "a/x.jpg", "a/y.PNG"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("a/x.jpg", "a/y.PNG", "a/deep/x.jpg", "b/x.jpg", "b/[1].jpg", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "paths, files, names",
    [
        (["a/x.jpg"], ["a/x.jpg"], ["x"]),
        (["a"], IN_A, ["deep/x", "x", "y"]),
        (["a", "b/x.jpg"], [*IN_A, "b/x.jpg"], ["deep/x", "x", "y", "x_2"]),
        (["a/*.jpg"], ["a/x.jpg"], ["x"]),
        (["*/x.*"], ["a/x.jpg", "b/x.jpg"], ["a/x", "b/x"]),
        (["a/**"], IN_A, ["deep/x", "x", "y"]),
        (["**/x.jpg"], ["a/deep/x.jpg", "a/x.jpg", "b/x.jpg"], ["a/deep/x", "a/x", "b/x"]),
        (
            ["?/*"],
            [*IN_A, "b/[1].jpg", "b/x.jpg"],
            ["a/deep/x", "a/x", "a/y", "b/[1]", "b/x"],
        ),
        (["b/[1].jpg"], ["b/[1].jpg"], ["[1]"]),  # a file of that name
    ],
)
def test_files_folders_and_patterns(folder, paths, files, names):
    found, named = photos_of(map(pathlib.Path, paths))
    assert [path.as_posix() for path in found] == files
    assert [name.as_posix() for name in named] == names


@pytest.mark.parametrize("path", ["a/none.jpg", "b/*.txt", "c/*", "b/[2].jpg"])
def test_nothing_to_read_is_told(folder, path):
    with pytest.raises(FileNotFoundError, match="not found|No image file matches"):
        photos_of([pathlib.Path(path)])


@pytest.mark.parametrize("read", ["a", "a/**/*.jpg", "**/*.jpg"])
def test_results_do_not_become_photos(folder, read):
    paths = [pathlib.Path(read)]
    files, names = photos_of(paths)
    outputs = outputs_of(folder / "a" / "out", names[0], ("mask", "overlay"))
    with pytest.raises(ValueError, match="where photos are read"):
        check_outputs(folder / "a" / "out", paths, files, outputs.values(), overwrite=True)


@pytest.mark.parametrize(
    "read, output, refused",
    [
        ("a/x.jpg", "a", None),  # beside the photo
        ("a/*.jpg", "a", None),
        ("b/[1].jpg", "b", None),
        ("a/*", "a", r"_overlay.png would be read as a photo the next time, by a/\*\. Give"),
        ("?/*", "a/deep", "next time"),  # of which folders are read, too
        ("a/y.PNG", "linked", "is one of the photos"),
    ],
)
def test_results_lie_beside_photos_unless_they_are_read(folder, read, output, refused):
    (folder / "linked").mkdir()
    (folder / "linked" / "y_overlay.png").symlink_to(folder / "a" / "y.PNG")
    paths = [pathlib.Path(read)]
    files, names = photos_of(paths)
    outputs = [outputs_of(pathlib.Path(output), name, ["overlay"])["overlay"] for name in names]

    def check():
        check_outputs(pathlib.Path(output), paths, files, outputs, overwrite=True)

    if refused is None:
        return check()
    with pytest.raises(ValueError, match=refused):
        check()

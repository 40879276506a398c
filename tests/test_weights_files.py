"""Files that are no weights, damaged or hostile: refused, and nothing is half done."""

import os
import pathlib
import zipfile

import h5py
import numpy as np
import pytest
from weights_helpers import (
    CLASSES,
    SUFFIXES,
    refused,
    write,
)

pytestmark = pytest.mark.once


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestBadFiles:
    def test_missing(self, suffix, untouched, tmp_path):
        refused(untouched, tmp_path / f"no{suffix}", "No such weights file", FileNotFoundError)

    def test_empty(self, suffix, untouched, tmp_path):
        path = tmp_path / f"empty{suffix}"
        path.touch()
        refused(untouched, path, "is empty")

    def test_folder(self, suffix, untouched, tmp_path):
        path = tmp_path / f"folder{suffix}"
        path.mkdir()
        refused(untouched, path, "is a folder")

    def test_pipe(self, suffix, untouched, tmp_path):
        path = tmp_path / f"pipe{suffix}"
        os.mkfifo(path)
        refused(untouched, path, "not a regular file")

    def test_no_permission(self, suffix, untouched, tmp_path, monkeypatch):
        path = tmp_path / f"secret{suffix}"
        path.write_bytes(b"secret")

        def forbidden(self, *args, **kwargs):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(pathlib.Path, "open", forbidden)  # root may read everything
        refused(untouched, path, "cannot be read: Permission denied")

    @pytest.mark.parametrize(
        "content, what",
        [
            (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
            (b"\xff\xd8\xff\xe0" + bytes(100), "a JPEG image"),
            (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            (b"x" * 1000, "other data"),
        ],
    )
    def test_renamed(self, suffix, content, what, untouched, tmp_path):
        path = tmp_path / f"renamed{suffix}"
        path.write_bytes(content)
        expected = "incomplete or damaged" if suffix == ".safetensors" else what
        refused(untouched, path, expected)

    def test_three_gigabytes_of_zeros(self, suffix, untouched, tmp_path):
        path = tmp_path / f"sparse{suffix}"
        with path.open("wb") as file:
            file.truncate(3 << 30)
        refused(untouched, path, "zeros|incomplete or damaged")

    def test_truncated(self, suffix, source, untouched, tmp_path):
        model, _ = source
        if suffix in (".pth", ".safetensors"):
            pytest.importorskip("torch")
        whole = tmp_path / f"whole{suffix}"
        write(model, whole)
        content = whole.read_bytes()
        for share in (0.001, 0.3, 0.9, 0.9999):
            path = tmp_path / f"truncated{suffix}"
            path.write_bytes(content[: max(int(len(content) * share), 9)])
            refused(untouched, path, "incomplete or damaged")

    def test_of_another_kind(self, suffix, source, untouched, tmp_path):
        """A good file under the name of another kind."""
        model, _ = source
        for other in SUFFIXES:
            if other == suffix:
                continue
            if {suffix, other} & {".pth", ".safetensors"}:
                pytest.importorskip("torch")
            path = tmp_path / f"whole{other}"
            write(model, path)
            renamed = path.rename(tmp_path / f"renamed{suffix}")
            refused(untouched, renamed, "is not|incomplete or damaged|no state dict|without `model")


def test_unknown_suffixes(untouched, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.zeros(3))
    refused(untouched, path, r"Unknown kind of weights file.*\.weights\.h5, \.keras, \.pth")


@pytest.mark.parametrize("trick", ["external data", "virtual data"])
def test_hdf5_does_not_reach_outside_the_file(trick, source, untouched, tmp_path):
    path, outside = hostile_h5(source, tmp_path)
    with h5py.File(path, "r+") as file:
        group = file["layers/dense/vars"]
        del group["1"]
        if trick == "external data":
            raw = [(str(outside), 0, 4 * CLASSES)]
            group.create_dataset("1", (CLASSES,), "float32", external=raw)
        else:
            layout = h5py.VirtualLayout((CLASSES,), "float32")
            layout[:] = h5py.VirtualSource(str(outside), "1", (CLASSES,))
            group.create_virtual_dataset("1", layout)
    refused(untouched, path, "is not in the file")


@pytest.mark.parametrize("place", ["layers/dense/vars/1", "layers/dense", "elsewhere"])
@pytest.mark.parametrize("kind", ["external", "soft", "dangling"])
def test_links_in_hdf5_are_refused(kind, place, source, untouched, tmp_path):
    path, outside = hostile_h5(source, tmp_path)
    with h5py.File(path, "r+") as file:
        if place in file:
            del file[place]
        file[place] = {
            "external": h5py.ExternalLink(str(outside), "/1"),
            "soft": h5py.SoftLink("/layers/layer_normalization/vars/1"),
            "dangling": h5py.SoftLink("/no/such/place"),
        }[kind]
    refused(untouched, path, f"has a link to other data at '{place}', which was not followed")
    refused(untouched, path, "link to other data", partial=True)


def hostile_h5(source, folder):
    """A copy of a good file, and a file beside it that it could lead to."""
    path, outside = folder / "hostile.weights.h5", folder / "outside.h5"
    path.write_bytes(source[1].read_bytes())
    with h5py.File(outside, "w") as file:
        file["1"] = np.ones(CLASSES, "float32")
    return path, outside


def test_hdf5_that_claims_more_than_it_holds(source, tmp_path, untouched):
    _, good = source
    path = tmp_path / "bomb.weights.h5"
    path.write_bytes(good.read_bytes())
    with h5py.File(path, "r+") as file:
        group = file["layers/sep_vi_t_block/vars"]
        del group["0"]
        group.create_dataset("0", (1, 1 << 34, 1, 8), "float32", chunks=(1, 1024, 1, 8))
    refused(untouched, path, "claims to hold 549,7")


def test_hdf5_with_data_of_no_shape(source, untouched, tmp_path):
    path = tmp_path / "null.weights.h5"
    path.write_bytes(source[1].read_bytes())
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = h5py.Empty("float32")
    refused(untouched, path, "is not in the file")


def test_hdf5_of_something_else(untouched, tmp_path):
    path = tmp_path / "other.weights.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((3, 4))
    refused(untouched, path, "without the layers of a Keras 3 model. At its top: images")


def test_hdf5_without_layer_names(source, untouched, tmp_path):
    path = tmp_path / "old.weights.h5"
    path.write_bytes(source[1].read_bytes())
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    refused(untouched, path, "does not tell the names of layers")


def test_hdf5_with_two_layers_of_one_name(source, untouched, tmp_path):
    path = tmp_path / "twins.weights.h5"
    path.write_bytes(source[1].read_bytes())
    with h5py.File(path, "r+") as file:
        file["layers/peg_1/vars"].attrs["name"] = "stage1_peg"
    refused(untouched, path, "several weights named 'stage1_peg/proj/kernel'")


def test_a_zip_that_is_no_model(untouched, tmp_path):
    path = tmp_path / "other.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    refused(untouched, path, "without `model.weights.h5`")


def test_a_zip_bomb(untouched, tmp_path):
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1 << 26))
    refused(untouched, path, "claims to hold 67,108,864")


def test_a_damaged_compressed_zip_member(source, untouched, tmp_path):
    path = tmp_path / "damaged.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(source[1], "model.weights.h5")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = b"\xff" * 64
    path.write_bytes(content)
    refused(untouched, path, "incomplete or damaged")


def test_a_damaged_zip_member(source, untouched, tmp_path):
    path = tmp_path / "damaged.keras"
    source[0].save(path)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("model.weights.h5")
    with path.open("r+b") as file:
        file.seek(member.header_offset + member.file_size // 2)
        file.write(b"\xff" * 64)
    refused(untouched, path, "incomplete or damaged")

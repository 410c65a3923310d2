"""Files that version 1 wrote: they are decoded for ever. Lines are added here, never changed."""

import base64
import hashlib

import pytest
import torch
from state_dicts import bits_of

from tersor.store import load, metadata

GOLDEN = {
    "every kind of entry": (
        "iVRFUlNFAQExAQAAD3xFVn1SXY/CIBD8L/tMLlC++1eMD7SlSqylKdxd1PS/H9TUcGp8ggy7szOz3CDa"
        "Mfg5QL27wWjOFmro269f6w7HCAi6eJlWbPAm0ioh4WgysmMYcbxHMNvBRPeToBs0LiYmjuBkpwg1kQRB"
        "74bB5gFyQdD6zjben3JxcNfUJBAcv/v+bMZ0r3LJ3EJdUcmo5pwl5KErOtslAetR4+Kh9dMF0P3495Cc"
        "NM6Ezz6Sh7MJq6S7bPpQoRRTFRdcF5xr7RMhEQUhxYjiF1LGyVv/ROptHOFUcMy1Lk2HaKfSgBujYMW0"
        "/daspGSCCaWK5tGP9qP5JHUjKHO72tl/7NNIv119ta0eF4vHy5sROYknX6oYoHKCr2nR4rcQvvHqShEt"
        "BedLjt1G05loclNcVwCdO2R1y/IHIgBx4vxhiUyOyYPEAo8JoLwQ4TJAMBLgMPALIQYxxsIAgJDgLRM1"
        "Ih8JFYj9P4y1QiGhDBPIv5OYk8BUbRRhZiMlh2PASB4IB8zZnVFzzQHsS2LBUtIFqwQwCTjOTEBOR28A"
        "qUmOB5pf0/wP6nBRAcFQ6z3d/Ao+tUG+PhmCJj8dEvq9RZIGvzQyIwTczbsvXis0g21Ha3cM8HxImDYN"
        "PW+59Y/09h8JPY7EyTa9NSvnUZjn2mkolVS8niSdbiRrSnvBLUpiO/5HVQ6rqqo+q6oqPwAAgD95/XXZ"
        "4VRdBOxUtEyjmbL03c0jZy9zueoo1YZYBMgZxLG9KR0WtYFCRGyUb34beuB83KpFE7Or7rblKyyUgdYk"
        "KjRXSl8c3qWMl3sXg5Wg0gb5yv9vslvdbIzSYZAwCUJJNzXP9Ywb6YTCzgly1quVCa4dkipiK48r8St6"
        "LfwtLy6oLqIvWDB5MVoyyjIwM14zKDRMNGQ0dDT5NEU1bDWYNck12TXhNeY18jUYNho2STZYNns2vzbx"
        "Ngo3GjgvOD04aDi7OMU4/DgMOSA5Jjk0OVU5jTmiOaY55DlVOlo6YTrUOtU6EDtPO2o7jzuoO/87Djwo"
        "PCo8NTxPPFw8YzykPLM89Dw4PUI9TT1SPWw9gT2mPbk93z0EPhg+Vj6dPqE+zD7/Pj8/Tj9UP+I/SJYC"
        "nBipM6k0rCauVa6or9GvALCNsMaw8LAXsmCyrrJcs/SzX7RwtHa0mrTdtOe0lbXitcS207bUtiq3Z7d3"
        "t8a3AbgpuDW4Rrh4uJO4m7jduOi4/LgnuTa5N7k+uY25oLnHuc659bn9uRO6Wrq4uku7/7sivFO8pLyy"
        "vMu88rz/vAa9Er0VvRe9Hb0+vVO9kb2nvau9273nvem9kb+zv72/e8ChwLbAx8CSkno3qXUlpgmUfhlQ"
        "JyN2o34rUkgrlgg4nU5fhT4AXzGMlABTc66FJZyNB0o3E6ltgj9vFIVmaGEjY7EWsnexmZmvknqIGSmU"
        "i1OWi1uBoqCYcHdyPzZCTDwXIX+pIqNrQi8toDQ7fYtQblE7ERiyjoA6DnJjqH5iOW59SVR0ZxiGCYFp"
        "kzZjSwkSFC8eRpQFeTIFk20xSUmWDi5daHQZalZPcqtRgxh2eYIEgy1BjW82ipZpRGaQW2xQhCsJWyBF"
        "rnU8a54uoiIKFnwAXKWqBR8scauMQad7MaF0qg41kiwcX5UHm2d3BJQ0JqxjOngzY0lTm3WFqh5XNqNc"
        "krA9aK2fARk5DBiiD2SPhHGUXiNbJlgVQCoxBREdSAmHWTguNSAFqYqgCS1OV4JlaJEiACADJ3A3jalO"
        "TF4liUIOey83VB+DCxoqqgcUl5JTnSlYamY2gqqfHX5NOIUPJJ6sDXyihCSalA+YeTyjCV6TKA+iQY5i"
        "gXEwEiqZMRtREwKCXgIQZxhVhXEafj8wZ2ZGQwgfljQ9GFdmoBukGAgdI1KUe1qWGzZHMStrn6OnHKxw"
        "eIsGrDiGc2BxaDdjA65HpQ1bBwAAAAAAAAABAgMhAsuyLMuyLMuyLMuyLMuyLA==",
        "2ab02d5c53fcde78bf730476ac82551b71636366865d8c6f563f3c32589ce921",
    ),
    "scanned by column": (
        "iVRFUlNFAQGFAAAAJf25MRXMQQ6DIBRF0b28MQMV01C2YhygfiIRwQDatMa99zO7uYNzo1DIMWXo4UYw"
        "O0HjA4GlfI/a1kdTZMcnr6aeoW/Eqx8FEnlT3MXrxuQKC53ARkeBVkrAOu+putzrae1uAnT7FohpocTy"
        "HP25BzyCa6Epxq1K2f1YlPWmmUM2vWw7pdQzPn8hMz9A/UAIGEM7cJxAh9D1e0aMkwDd/Ao+GYImPx0S"
        "+r0jVhlXliJUAGqEBNbphqBVUJX2XZqSjlo=",
        "03f9e773aa5793c8854f0aa35bc3423783ededb0de7657de479230e5a3ace064",
    ),
    "complex and wide": (
        "iVRFUlNFAQGTAAAA8oejm32Oyw6DIBRE/+WuWXiB3lJ+xbhApWnjAyMsbA3/XmRhSNN0NzmZyZkdgp29"
        "Wz3oeofZTBY0dMCgD68lZzcto92QqwT9wxywFg2DyfgB9A6DXQJoGVmq9rZ1LlP/fKeiOOjagUaFSJKT"
        "ukZ2avpCcx+dCSS/HHkrSFVISl2qYtsW2+Qc/57jP8/heY7TTXIk5LGJHzMAAAAAAADwPwAAAAAAAABA"
        "AAAAAAAAAICkAAAAAAAA+H8AAAAAAAAAgAEAAAAAAAAABQE=",
        "e6ab3b156da818e0057a6b26288c8a7501de29d4d57d2ac331a69acc649331e8",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_files_of_version_1_are_read(name, tmp_path):
    text, digest = GOLDEN[name]
    path = tmp_path / "golden.terse"
    path.write_bytes(base64.b64decode(text))
    state = load(path)
    bits = b"".join(key.encode() + bits_of(tensor) for key, tensor in state.items())
    assert hashlib.sha256(bits).hexdigest() == digest


def test_ties_kinds_and_metadata_of_version_1_are_read(tmp_path):
    path = tmp_path / "golden.terse"
    path.write_bytes(base64.b64decode(GOLDEN["every kind of entry"][0]))
    state = load(path)
    assert state["tied"] is state["fc.weight"]
    assert state["copy"] is not state["fc.weight"]
    assert {name: (t.dtype, tuple(t.shape)) for name, t in state.items()} == {
        "fc.weight": (torch.float32, (40, 50)),
        "tied": (torch.float32, (40, 50)),
        "copy": (torch.float32, (40, 50)),
        "fc.bias": (torch.float32, (4,)),
        "mask": (torch.float16, (30, 30)),
        "steps": (torch.int64, ()),
        "none": (torch.float32, (0, 3)),
        "zero": (torch.float32, (9, 9)),
        "codes": (torch.int8, (80,)),
    }
    assert state["codes"].tolist() == [3, 1, 2, 1] * 20
    assert metadata(path) == {"task": "digits"}

"""Files of each version: they are decoded for ever. Lines are added here, never changed."""

import base64
import hashlib

import by_hand
import pytest
import reference_decoder
import torch
from state_dicts import bits_of

from tersor.store import load, metadata, verify

GOLDEN_1 = {
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

GOLDEN_2 = {
    "every kind of entry": (
        "iVRFUlNFAgHSAgAABM/HGWI7q47cw11KR/1gVKkhsnFfsnNtv1yvFPe07cHiJ2g6qqo02gVDZMhBMUXH"
        "svoAAIA+AAAAPwAAQD8AAIA/AACgP9aXJGoGlJadEXGvw/Fa1iPyXGqjYXnzb4Y4TmCtMJq7PWxzCIhp"
        "tL9oNiqD5kIxUGpDJ1wnwmphvoXeKlZHhY0l25dgQBDdFEelFkK/t5FxeYWrrdPunJCPIdE1H9VENL8w"
        "NY1Q/+W3TnXdrmbctVBW+/r/+99ok8WbgiYdovzHplAAAIA+AAAAPwAAQD8AAIA/AACgPwAAwD8AAOA/"
        "AAAAQAAAEEAAACBArsjMflbWIEHOUd/qyuY4V/txajmYHtQW7oPe66FmqCatnWjND2hsyt1/dxGilAHV"
        "rbZhgwiSlvs9X8v9qdd+OKeGw8hzggN135yn4u+o5hIMjcVe0eCRTcHmlPomFgUSlfScpQ+xNbR5X7Ov"
        "9em34R4jIli7SqypzFOwnkXC5ko//dMwRo/Uj/iKWJ+R+Rjd8mIc8DH+1BfXWg7ES9Zgp+A4lgfsa+pB"
        "yUCW7iIBAAIAAwAEAAUABgAHAAgACQAKAAsADAANAA4AEAARABIAEwAUABUAFgAXABgAGQAaABsAHAAd"
        "AB4AHwAgACEAIgAjACQAJQAmACcAKAApACoAKwAsAC0ALgAvADAAMQAyADMANAA1ADYANwA4ADkAOgA7"
        "AJy1493u+IQpKL9BwePXFuL7POHB6G/28zMuzERlkQ4d4w9sSjftuVWhVaaubW667pGosaJiV+pPnQGE"
        "xElubR+SXfG3l+crbCIK1TaOJQcgPilBvxQwMWSRM/R6AqEI763tg9LAzCCKNInQAanA1ZMxZ3D5w/ah"
        "cOSFaMG06DPJrN05dBrsCUl3QwhGMgBcdqUIDJLXP41O+qcolAoAAIA/AAAAQAAAQEAIdwdQuQDlsQEA"
        "QitNMFd2MGn7t3jthc8SbTkKfUihTSkcaGXfELOuAQACAAMABAAFAAYABwAIAAkACgALAAwADQAOAA8A"
        "EQASABMAFAAVABYAFwAYABkAGgAbABwAHQAeAB8AIAAhACIAIwAkACUAJgAnACgAKQAqACsALAAtAC4A"
        "LwAwADEAMgAzADQANQA2ADcAOAA5ADoAOwA8AP//3NCHuCr/B349m4NtcpQFtac3lugPLz1qe6iosrUS"
        "zbLubDSnTb7VoFJ2XSveHCT4PVftqduwdRtJXgvHnUSnqdnL3u7xgdVAw+y+mQeHP864Buh94iRbVa+a"
        "HcRqXuViGvLbH3Rc3owM/3Fq5N+nDKBMJt0NgARcPy6OXhtKb870aUrGEvQx8VkkXdkb8SdySH/nVZyy"
        "4Shry+iqhwjjHtNW8TAyYsHFM8Ara8GQyhLpCnTKJjeXVsBsO4aWimB5bcrAXKs7xHe9ipevQnTajcrM"
        "rQAAADoAPoBAAEKAQ/DnawkXaC4YKXJQ0snG1da/QwTQGX0Iwovzv8uipqyLwfNuPkpvpi9lRDMXuDO+"
        "CjVDtoekpmGk1Ucd1er6+W1gGvmgq43a5X2qn8iHDxgYYOcmdCWLSLW5P6wl2aCdKt1/jz8OOKCAAw44"
        "oJJKKqmkkkoDDDBAAAMMQAAABBBAAAFAAQQUUEABpbJKKqusosoWWmmllVZaCQAAAAAAAAAAAQQQQAAB"
        "QAQRRBBBBBESSSSRRBIJpKiiCgqqiKIAAAA/AACAPwAAwD8AAABAAAAgQNaXJGoGlJadEXGvw/Fa1iPy"
        "XGqjYXnzb4Y4TmCtMJq7PWxzCIhptL9oNiqD5kIxUGpDJ1wnwmoAAQIDDDwz7zcBbPQOAFh8VBsl4GAB"
        "VTcBANywigRfC3kATTMCAO9MCAgGZA0lFyz9hnd6/FBB7HIEAaVg94cIc1MyuVoGK7s0kw1+jUpuXBU0"
        "OMdRznCFLMNHpWe8o1JmiKKEWH+tIVdycY5AAJn3+3Fdq/T9sVBz86K1TqtPbA9m9qIHbyjHsIiZGS/T"
        "TVkumxwf2s0cIZW5g4Fb95JbaceR4gzi9cKzfNiU7CF8pyawHie4b8SCPPJoGO7BHmzGEn2zSkkmefMi"
        "W6xzj2sFa26OFxazZx7hkWGa52bihKL8JZYjFxj51mARH/a/FzPZdscPZ+gaP6a18KWvcw4LzrUovG8Q"
        "Jvxd3RlhFtym4pZoflwdqayK/Wq7aHgv2HgWa8cch6/KVuGHKYNj1nj80p9ygW2NoHYxR1waAQbA4B6q"
        "AK5et3Exv76lIJB4lpKNdt5YjzVmN84yCwYWaKLKn3VKLxcF8pKREUK6b9GySwXaYaFcflAW3Ltc0EX1"
        "fssv/oEbQ7l7BHyxeVINiaqpAAAAAMVNLj8iDzY/7qlpP+3k1D/DVOo/LYYlwAg4IzID6BoAQ2MoHafW"
        "YrXtMU4rPxt+NHiYwJofFLwPpjFSzkwqD5sry15pWVD8SYtzcuZI5yaFgNuJ6rUdjfiyp23Mq1fvSmjC"
        "eXJb/GJBgZFWuVyj/hLPh8LpHljBhm2la/Z0cAN3XH9joqIf11HClAECAyECy7Isy7Isy7Isy7Isy7Is"
        "BQYHkiRJkiRJkiRJkiRJkiRJCFVVREM1REBkewbdJpxEAysGwX/NJxL8uEnygUxlmOipauFjcGkjf09Q"
        "/zxp79Xiwmir8biHghyy1CvsUyumguInN6au/s8uiQXqdgA8flKu9sVNrj4iD7Y+7qnpPu3kVD/DVGo/"
        "LYalvwhmVVYGDWWap41+5wAhToJKeLMbKmPzWuGKXQtV4S/y0ME3MGVwfeFPJXGe6wQP+44SftFqir1s"
        "BGJ52HcIVUVUhGxk3QBPsoMF6VDrzDTmg8bTtrkl8Yb5kbe0Z4SdIXhHoKKkWUhjSX8PnW8zg7WH+QqB"
        "lcMixNU+iQLZHFUbssmZX9MRVLqCP1qLiD9yP68/sqsfQJK/L0BESXjAM0REAcG5D85q7vnhLM/ul3JX"
        "lQyj/+bwtSN+XC5W1fDkKJk1WTe912doGLnlIHtoivdy6nQSSeN49vbp8oZEwzqiCghQRkU1RENDdYcc"
        "GpJGQABJTQ4Axq3DQR1jh5riyla7UMR0Ao+sBVawoRwKDXbM1WrxVm9amw469sb2WRlG7JXLRLCfUItv"
        "McKv3eH8WYAb5Jw24dk/6pLjPzUKEkAUD4VA+nSSQLjnzsAIZlVWBsxgFtcMqgEA+U3gqsN2fzJ83oXU"
        "XMpVEXospEUvHRKJXiSFJUemHIX6mIs9sahMo0vXbQYsbwIGoVghkfe9AEAh1xACdZAxCkICBtUllsnA"
        "aNAfAP1flCgDKBkQcSuEdYRqDh4EzjrEBDFmI0GFA34DQAwhwnqC2gBQIeErcMGI53y3VAFyNbA1TTen"
        "OlM7LL1sYCIL0C0ZtkWt1DIVEpqFLZZswTRpFkADFQAkSIFgAwNlEXBgNgKKpimqIwZDQ0UVYx6A30TF"
        "dyLh9u2eSMkojiLUfMJ8gY0AnPY2Skeeb2esqvMJCev96bLujY6AS7rtWMrjT+TegAZZBvCtHgAAAKC4"
        "ydU/AAAAQOTB1j8AAADAPTXdPwAAAKCdnOo/AAAAYJhK7T8AAACgxbD0vwhVVVUHvhFaNmZsAgDZoaMt"
        "3lLuC6yIUjJFu6ewvFh6ZCN7f8zIMWNAAR38xye+t6P/hmC1/bcIdJM4ZXHQ8Wm3lvieUMLZRa0enwhn"
        "ZkRUhhTCVwMEdw4AS3TONRYIYzmhCzSrto01iTmc2i7z6vxKwWkNvaY0YN5dxtgTtlRQZsgjC2Gx+IB4"
        "fsyGhLwrpvfB3wV0R9UZT5SYMTNjWeyTHylggXn5ddnnW2Ruk5J2Y97rf7MpdgxhG8XupbfPM1nU+mNn"
        "+mie5m4h0BdonrpCCAUAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAxAb+HWIb2K76vCSQ+o/IAWaCmu4wtQAAAQEBAQICAwMEAAUFBQUF"
        "BQUGBgcHBwcICAkJCQkKCgoACwsLDAwNDQ0ODg4ODw8PEBARERITExMTABUAFhcXFwAYGBkZGRoaGxsb"
        "GxwcHB0dHQAeHx8fICAAISEhIiIjIyMkJCQkJCUlJiYmJycnACgpKSoAKyssLCwsLQAuLi4uLy8vMDAA"
        "MjIyMjMzMwA0NTU1NjY3Nzc4ODg5OTo6Ojs7Ozw8PT09PT4+Pj4+Pz8/Pz9AQEBAQEFBQUJCQkJDQ0ND"
        "RERERERFRUVGRgBHR0hISEhISUlJSkpKSwBMTU1NTU1OTk9PUFBRUQBSU1NTVFRUVVVVVVZWV1dXV1hY"
        "WFlaWlpaW1tbXFxcAF1eXl5fX19gYGBgYGBgYWFhYgBjZGRkZWZmZwBoaGhpaWlpaWpqamsAbGxtbW0A"
        "bm8AcXFxcnJycwB0dHR1dnZ2dwB4AHl5AHsAfH0AAH9/LwkAAAAAAAAAAAAAAAAAAAAFAAAAAAAAAAgA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIFNXAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABFURwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAKaJ0kcBcsE7MwN2zejl9MsYV1h1zdbSv6dSnEHUSnU1qgYNzUtaPi7jI11ApHxw9XN+bEAG"
        "rl6nebiBB4T4gJ8pUr0UXPyO0YwE4FnKNn11899bjy+kL8LOcyBEKbXprybVjqcpj4uGZVSXLSSd6qg/"
        "FymcGjvp8CycauCIscslMUeZj8JO+RzCbl3NL3mg53WCFxU9QjGN8Omu7COgpXeOG3ZcuR33kemIftMq"
        "ONQTydupBv6dGj8xHcnL60kblZqTyYGfjFxrLIQdYiy8lyvbIJYqfd1t4Bni6qMVztRnya80sFeqbuqF"
        "dcg9Mqc8KlXIFHsUMb3Jg6IcKVwHgwyTMcHgqqos9mlEzawVYJjTgkDEeq3mhi+KI6SILve8xIPTMYAs"
        "QhfH5wV026k81p3f34u8yuoDaTDgK28faOQOpgGKE4QKawrOTwQ/EdnU+QhOih4zvxutQtiCeZK36gw8"
        "R5VvIQkUFGP6JNalOAObs4ghT9ijogSeHFXdmlhCeas91PdxLKyKTNS23MYCVZ2+zVCzKWH1Okd9H4zz"
        "LI2wu+/FUVePI7ca84j1/iErTAoikCXe+mg7//6LByPNLygmSCzmnQPNC718zqmTpIOQDMNPU/Z31RmJ"
        "1kBqS9YNjq+hdxNJgpUOOB1lXl985nG7nQFlJSmO9cS/rIA788sCCT1ICiwihMzHkni42Q8cog763p+h"
        "znUvCa1X2V9R0QZheFsqIgNPYGtBt2EF66ylyVFBj3xRaOKSjsMRtGzeNJzaVy5PJXDF2K6+IGB7G0Na"
        "hwEslILGWtJ38dsBrt2NXGLHJ2Z7duXumFd55uhmkW7FgYmxetrAAwGPJAE4a0YNDY3DmvETJkVs9cFg"
        "NwXvmQbuQ/U4mJafwEWJ8RvCFU8OtyxgL6u5r4urNcJLZgpusmOWdZV1FXARaH+uLMDJkW8O3InE2JPk"
        "VGQEPax4pqaSPWSzMiS0P5+mKmMJoFpyjBKb/1bYWG0GKh66o+NvL4jXc/+FDV2/KN20pKHlyH2DxSkm"
        "14+FNtzKFxpteN8TghsBpLJqwGhauyY01cOm6UuRlGluaqN/paa7GCy2XWPlhjr9WmHWsW1lDWUtCnZF"
        "NLx8XNMfsbRTjYGaEpIp+tYtV0Gz0EMFJOpDN+6amPh7HSp1X7bjLVggzq8Erf10LiMrBMB39Ka/E+Oo"
        "IXqgj9jSklgp6EEacx1JYW3iD1h8Ep36tA4p4SkU3mRZvK0tU3A95BPbRav44M7Urm32f4H0fAfvTIHK"
        "bw8EHtjCj/qO4bL9DhgpKC8Ke3wht1skGTPkDMkhDUF7fxGtrq8oCNFpdCAGV+fpHaag/QgAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAARMkR2VwIAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AKBHEnnzitnMnnDVl5/U1fqx3B2+DItf5Dxe4UuIsPDvyB50mC1iVKmontskR+7lp0r4vAgMppkPRDc5"
        "yJihJDQ1mTnS4M15gEaY7mYsS6AERBrOTOfuTApSUchYCACaoUH1EhWoMFpIOtRSgC9VOjd41eFYO9XD"
        "EGSYTWSOMx+FnPU4h966m2D1Q8/qBi4qe4RiHeLTXthJQE3wHzjvunM87yLVEP+mV3KpJ5O4Ug7+PTR+"
        "Yj2Ul9aTNyo0JpQCQRu41lgIPMZbezBYtkIvVfu72sAyxddILZ6o0ZReaWOvV97XDOyQe2VQeVeqkCv2"
        "KGJ7kgdFOVK4DggZJ2WFwlZVWO/TiZtbLMIzpweBivRczw1eFEdJE17xe4kHpmIAWIcujtEM6rZUea89"
        "vsAYepXVCdJhwVbgQNLJHE8EFCgIFtgWn58LgCKyq/MRnBU9Zn85XIeyBPIlbtcbeI4r4EUTKijI9Equ"
        "TXIGOWgRRZ+xR0YJPDmsvTeyhvNZe6nv41tZF5irbbiMBas7f5ujaFUpYkEwBNgONA4oUh0gQwRRRwXB"
        "QIJAcABAABIDcDCEQqMRESBUBZCFUIJXIEZEASiEAEgmA2BsggQARS4ASAoUiokIRAxHAoZdsR2NpA0c"
        "0zJCAbDFCqGCAGQmKIECAQUIWGQmSbAEHAg8kqACVAg4vwELICAUBEQESMzGIAJAJwCBAECQyAggJqCg"
        "AAFQACAAIAIAYAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAkAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAAAAAgICAgQEBgYICgoKCgoKCgwMDg4ODhAQEhISEhQUFBYW"
        "FhgYGhoaHBwcHB4eHiAgIiIkJiYmJiosLi4uMDAyMjI0NDY2NjY4ODg6Ojo8Pj4+QEBCQkJEREZGRkhI"
        "SEhISkpMTExOTk5QUlJUVlZYWFhYWlxcXFxeXl5gYGRkZGRmZmZoampqbGxubm5wcHBycnR0dHZ2dnh4"
        "enp6enx8fHx8fn5+fn6AgICAgIKCgoSEhISGhoaGiIiIiIiKioqMjI6OkJCQkJCSkpKUlJSWmJqampqa"
        "nJyenqCgoqKkpqamqKioqqqqqqysrq6urrCwsLK0tLS0tra2uLi4ury8vL6+vsDAwMDAwMDCwsLExsjI"
        "yMrMzM7Q0NDS0tLS0tTU1NbY2Nra2tze4uLi5OTk5ujo6Ors7Ozu8PLy9vj6/v45VA8ezzXxIVsTlCeZ"
        "cGdy90q6NYWJsqC86AjqYdsdSBKMjQxu5K8wZvi/b4+/HcGaO9Tkal3c2G+zDYJ/b3sHmjJErvsSFDBr"
        "MFXO0Ushn4QvuBIEfFVK5DJQsyntnkB5K0jscohv4AcnJS40nz7qijwldbdgXHW/4beNIgA0CAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAQAAAAEBAQECAgMDBAUFBQUFBQUGBgcHBwcICAkJCQkKCgoLCwsMDA0NDQ4ODg4PDw8QEBER"
        "EhMTExMVFhcXFxgYGRkZGhobGxsbHBwcHR0dHh8fHyAgISEhIiIjIyMkJCQkJCUlJiYmJycnKCkpKisr"
        "LCwsLC0uLi4uLy8vMDAyMjIyMzMzNDU1NTY2Nzc3ODg4OTk6Ojo7Ozs8PD09PT0+Pj4+Pj8/Pz8/QEBA"
        "QEBBQUFCQkJCQ0NDQ0RERERERUVFRkZHR0hISEhISUlJSkpKS0xNTU1NTU5OT09QUFFRUlNTU1RUVFVV"
        "VVVWVldXV1dYWFhZWlpaWltbW1xcXF1eXl5fX19gYGBgYGBgYWFhYmNkZGRlZmZnaGhoaWlpaWlqampr"
        "bGxtbW1ub3FxcXJycnN0dHR1dnZ2d3h5eXt8fX9/FEVRFEVRFAAAgD8AAABAAACAPwAAAEAAAIA/AAAA"
        "QAAAgD8AAABAAACAPwAAAEAAAIA/AAAAQAAAgD8AAABAAACAPwAAAEAAAIA/AAAAQLZt2wYAAMA/AAAg"
        "QKqqAgAAwH8AAACAAACAfwcAAAAAAAAAAAAAAK2Y204bMRCG36XXq8hzth+mF1UbEIJCVJBASHn3Okvs"
        "tePZDUW9zm7mm39Ov9ZVIIfZnZ7bFAAnDZdIEEOlYj0Hg+BySYMl0j17AiNSEY1AsZHsDLaDf0fDhBXN"
        "ajhfsdCgQaD24RktkhoyI/VofdN3/YthIkctXpBWRIotClcEyNKgQuALce7zFO4fNtXRSSaaaIARqjBQ"
        "SkcuFJUx4rZaqpi4b+8Z+7ooTtqpSRuBatqoTCmFQGMgr2O7cKUtxnDa1TsMvYhqytFMQif38/1uTHKr"
        "HduDkUflK2ORS25JOKA2KHM1xg1bK64h+IlzqSQlrclizC9wBLmIsLvZv17ZUxP7cazEAeDaMoHRjKK2"
        "TVPubNc0bS7RD0DNiT6Bf4RIGCFZ3iNNhEM5tatqrUSo+hCLJRRIrT7n47S7KMW6SOM543LOAKi5aJiK"
        "eBGPK9378bvCUkPOizMIeIjV1HwFknzIJAXCaLBPa9S1YlrFzYs1d4RyMo/8ttux/0FbokVbx/UNzvCK"
        "/m0aTGjM4qVxc/fWdeC4qtYTET8R9ckKj0VKYlHYwxlnbgaaTdvXG8La+sK2cFYnVoFjFFW3cc9ua9Mo"
        "AoYrnITYTlesq4lOq8lzdCCQ/dyygRNnM5F3gD//r473rXTksmFha8mWYdYEWRPpRBm0cG3jikXNK+xs"
        "UmsMlgSJOOEQY3e2sZuyb8TK+2vNDINgJMvDYmPU+Vp+ptT9Wc3VXaviKekVEAxJQrZUMXogh09yHDqM"
        "xU2hbSLVpZErkKIFjBcuown/8+n34WH/1jUVmmMulj/NY48GcOlchjs4NtDqHw+TjMtwUDamGPv9/eOK"
        "b/he3jbMlsAstT7r+WV/eN6YqfpyNmisrF0NH58e95uxw1Sjt0Hf93+eNt9LU3JtQp1akQgK2g3U/Gmg"
        "fCHoSjJ/PCjfEMLxpHvzreBlrsG3X3e3p3VxPP4F",
        "5ca40fbc91190bab3cce1f778c1d521c2e028bc80179fefe15586a230d6f9f46",
    ),
    "in parts": (
        "iVRFUlNFAgGxAAAAtZwRiQAAABABAgMEDhERDvwfAABHAE6UaABOlGgATpRoAE6UaABOlGgATpRoAE6U"
        "aABsBdAeuGbME0xTDCgMpT3a7eqAToBOgE6AToBOgE6ATjHCeRh92RFXkTFSHBaV7lECogZfDibiVS8R"
        "d/TTskeMf/4LZRfMT8kOAAAAEAAAAOD/HwBACQC+NQUMwf8HAFASAN1zeKhT39k49QDIDwTHBgEAAAAA"
        "AAAAAgAAAAAAAAAOAAAQABAAAOD+HwDAAwBycD0AcnA9AHJwPQBycD0AcnA9AHJwPQBycD0AiUNxu8A/"
        "DuH/HwCAVX2VNAgAlTQIAJU0CACVNAgAlTQIAJU0CACVNAgA4fU4wD+FlLEOwjAMRH+IwT47tfMxGRDq"
        "gFQEIgNT/x06OAo0onOlu/O9S4cNPO+v+k3QuzjpxKSebCr9tvd4JPAIOkCJzE26F0XD1BqomCmysvoE"
        "QaKtxL2fhp/3diZiTcvGDcV3IKzESVRdZS0dsXo7L8tg2g1U+f0tNEFwpgz2LULTe1zny1z/L185q7Ac"
        "dN1u76vGBFaJ4/TgeGmbgHEiwJDGRcvIbIyRm6YjK1STfRot6xs=",
        "2c4cc7de7f2ea41ea9fd4ac92413e95e4853390cd46cc8cb8d7cba7aff24af97",
    ),
    "against a base": (
        "iVRFUlNFAgG9AAAA3A8e3w9Jd2HyIh8BAAAAAgAAAAMAAAAEAAAAB6p315xsrSuqRfHTAYN3lVBW8lwB"
        "AAIAAwAEAPhaZrxoictg4m1MMget2QlwtVcBAAAAAAAAAAIAAAAAAAAAAwAAAAAAAAAEAAAAAAAAACNL"
        "twuB1fQHCn3zlAID5DyDyivoIuCFEgEAAAACAAAAAwAAAAQAAAD+////iwZh+gYOqLrw6PJ/QtFXE+31"
        "7U7A1rpDpnbO1QAAgD+t0zESwjAMBMAvnWTJsh6TgiIZikDooMnfcWZwcIInUNC6ubV0ak9gIRySIvYa"
        "8dVjTYeUyOgSRKFUTsSNBYgB1XDOp3E4rkSDYL8SAkHUI9tqYMoswDeI3NRGkf8xg4CgkAwo+aSiLCEK"
        "bxpyuY39ozK8Xr44CLRCiJoSrUrxbgN7dNNkyYsrEZmwRqpYw9KhajfTNO45n8fK5VhRX2sJRskTcjaE"
        "lLQKvPb3wzZy1yz++quUV53X7Zi7+Qk=",
        "a74349f7053ace71de20b33e8e3ce45d2629b1c42e3e39ce1ce1449941b66cae",
    ),
}


def base():
    """What the golden file of differences was made against."""
    count = torch.arange(60)
    return {
        "float": count.float() / 7,
        "half": (count.float() / 9 - 3).bfloat16(),
        "int": count * count,
        "complex": torch.complex(count.float(), -count.float()),
        "flag": count % 2 == 0,
    }


def digest(state):
    bits = b"".join(key.encode() + bits_of(tensor) for key, tensor in state.items())
    return hashlib.sha256(bits).hexdigest()


def written(text, folder):
    path = folder / "golden.terse"
    path.write_bytes(base64.b64decode(text))
    return path


@pytest.mark.parametrize("name", GOLDEN_1)
def test_files_of_version_1_are_read(name, tmp_path):
    text, expected = GOLDEN_1[name]
    path = written(text, tmp_path)
    assert digest(load(path)) == expected
    assert verify(path).summary["version"] == 1


@pytest.mark.parametrize("name", GOLDEN_2)
def test_files_of_version_2_are_read(name, tmp_path):
    text, expected = GOLDEN_2[name]
    path = written(text, tmp_path)
    under = base() if name == "against a base" else None
    assert digest(load(path, base=under)) == expected
    assert verify(path, base=under).summary["version"] == 2


@pytest.mark.parametrize("name", ["every kind of entry", "against a base"])
def test_the_reference_decoder_reads_files_of_version_2(name):
    plain = {n: (str(t.dtype)[6:], tuple(t.shape), bits_of(t)) for n, t in base().items()}
    text, expected = GOLDEN_2[name]
    tensors, _, _ = reference_decoder.decode(base64.b64decode(text), plain)
    bits = b"".join(key.encode() + found for key, (_, _, found) in tensors.items())
    assert hashlib.sha256(bits).hexdigest() == expected


def test_the_golden_file_of_version_2_has_every_kind_of_entry():
    entries = by_hand.split(base64.b64decode(GOLDEN_2["every kind of entry"][0]))[0]["tensors"]
    seen = set()
    for entry in entries:
        for kind in ("mask", "map", "relative", "codebook", "planes"):
            seen |= {f"{kind} {key}" for key in entry.get(kind, {})}
        seen |= entry.keys() & {"tied", "copy"}
        lengths = entry.get("planes", {"lengths": []})["lengths"]
        seen |= {"planes raw" if n == 0 else "planes rANS" for n in lengths}
    assert seen == {
        *("mask kept", "map kept", "map bytes", "map lag", "tied", "copy"),
        *("relative bits", "relative kept", "relative fillers", "relative huffman"),
        *("relative rans", "relative order", "relative convention"),
        *("codebook size", "codebook huffman", "codebook rans", "codebook context", "codebook lag"),
        *("planes lengths", "planes rotate", "planes raw", "planes rANS"),
    }


def test_ties_kinds_and_metadata_of_version_2_are_read(tmp_path):
    path = written(GOLDEN_2["every kind of entry"][0], tmp_path)
    state = load(path)
    assert state["tied"] is state["relative.rans"]
    assert state["copy"] is not state["map.lag"]
    assert torch.equal(state["copy"], state["map.lag"])
    assert state["map.kernel"].shape == (6, 5, 3, 3)
    assert state["huffman"].tolist() == [3, 1, 2, 1] * 20
    assert state["packed"].tolist() == [7, 5, 6] * 20
    assert state["relative.raw"].tolist() == [0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 5, 0, 0]
    assert state["mask"].tolist() == [0, 1, 2] * 9
    assert metadata(path) == {"task": "digits"}


def test_parts_of_version_2_are_read(tmp_path):
    state = load(written(GOLDEN_2["in parts"][0], tmp_path))
    rows = torch.zeros(5, 2**20, dtype=torch.int8)
    rows[:, 7 :: 2**17] = torch.arange(1, 6, dtype=torch.int8)[:, None]
    assert torch.equal(state["rows"], rows)
    assert state["small"].tolist() == [0, 1, 2]
    where = state["pieces"].nonzero().flatten().tolist()
    assert where == [5, 2**22 - 1, 2**22, 2**22 + 8]
    assert state["pieces"].shape == (2**22 + 9,)


def test_differences_of_version_2_are_small(tmp_path):
    under = base()
    state = load(written(GOLDEN_2["against a base"][0], tmp_path), base=under)
    for name in ("float", "complex"):
        assert not torch.equal(state[name], under[name])
        # Number 0 was 0.0: some steps below it there is a NaN.
        torch.testing.assert_close(state[name][1:], under[name][1:], rtol=1e-6, atol=1e-6)
    assert (state["int"] - under["int"]).abs().tolist() != [0] * 60
    assert (state["int"] - under["int"]).abs().max() == 2
    assert torch.equal(state["flag"], under["flag"])


def test_ties_kinds_and_metadata_of_version_1_are_read(tmp_path):
    path = written(GOLDEN_1["every kind of entry"][0], tmp_path)
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

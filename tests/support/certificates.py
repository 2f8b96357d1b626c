"""Make certificates for a test with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, names: str = "IP:127.0.0.1,DNS:localhost", days: int = 2) -> dict[str, str]:
    """Make an authority and a certificate that it signs for `names`. A certificate with days=-1 has expired.

    Returns the paths of "cert", "key" and "ca".
    """
    folder.mkdir()
    openssl(folder, "req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    return {**certificate(folder, folder, names, days), "ca": str(folder / "ca.pem")}


def certificate(folder: Path, signer: Path, names: str, days: int = 2) -> dict[str, str]:
    """Make a certificate for `names` in `folder`, signed by the authority in the folder `signer`."""
    (folder / "names").write_text(f"subjectAltName={names}\n")
    openssl(folder, "req", *KEY, "-keyout", "key.pem", "-out", "request", "-subj", "/CN=stage")
    signed_by = ("-CA", str(signer / "ca.pem"), "-CAkey", str(signer / "ca.key"), "-CAcreateserial")
    openssl(
        folder,
        "x509",
        "-req",
        "-in",
        "request",
        *signed_by,
        "-extfile",
        "names",
        "-days",
        str(days),
        "-out",
        "cert.pem",
    )
    return {name: str(folder / f"{name}.pem") for name in ("cert", "key")}

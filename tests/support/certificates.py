"""Certificates that live as long as a test, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, names: str = "IP:127.0.0.1,DNS:localhost", days: int = 2) -> dict[str, str]:
    """An authority of its own, and a certificate that it signed for these names; of -1 days: it has expired."""
    folder.mkdir()
    openssl(folder, "req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    return {**certificate(folder, folder, names, days), "ca": str(folder / "ca.pem")}


def certificate(folder: Path, signer: Path, names: str, days: int = 2) -> dict[str, str]:
    """A certificate for these names, in a folder that exists, of the authority in another one."""
    (folder / "names").write_text(f"subjectAltName={names}\n")
    openssl(folder, "req", *KEY, "-keyout", "key.pem", "-out", "request", "-subj", "/CN=stage")
    by = ("-CA", str(signer / "ca.pem"), "-CAkey", str(signer / "ca.key"), "-CAcreateserial")
    openssl(folder, "x509", "-req", "-in", "request", *by, "-extfile", "names", "-days", str(days), "-out", "cert.pem")
    return {name: str(folder / f"{name}.pem") for name in ("cert", "key")}

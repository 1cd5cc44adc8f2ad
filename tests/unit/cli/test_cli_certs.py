from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from merchant_rpc.people_key import read_keys
from merchant_rpc.peppers import read_peppers
from mesh.key_files import read_private_key, read_public_keys
from mesh.settings import MeshSettings
from payment_rpc import account_keys
from paymesh_cli import paymesh


def run(*arguments: str) -> Result:
    return CliRunner().invoke(paymesh, ["certs", *arguments])


def test_the_printed_settings_are_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("--out", str(tmp_path / "tls"), "--service", "payment_rpc", "--service", "gateway")
    assert result.exit_code == 0, result.output
    for line in result.output.split():
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
    settings = MeshSettings(service="payment_rpc")
    assert settings.tls_cert_file
    assert settings.tls_key_file
    assert settings.tls_ca_file
    certificate = x509.load_pem_x509_certificate(settings.tls_cert_file.read_bytes())
    certificate.verify_directly_issued_by(
        x509.load_pem_x509_certificate(settings.tls_ca_file.read_bytes())
    )
    assert stat.S_IMODE(settings.tls_key_file.stat().st_mode) == 0o600


def test_the_keys_of_merchant_rpc_are_made_once_and_are_usable(tmp_path: Path) -> None:
    first = run("--out", str(tmp_path), "--service", "merchant_rpc")
    assert first.exit_code == 0, first.output
    printed = dict(line.split("=", 1) for line in first.output.split())
    operator = Path(printed["MERCHANT_RPC_OPERATOR_KEY_FILE"])
    totp = Path(printed["MERCHANT_RPC_TOTP_KEY_FILE"])
    pepper = Path(printed["MERCHANT_RPC_PEPPER_FILE"])
    public = read_public_keys(tmp_path)["operators"]
    assert read_private_key(operator).public_key() == public
    assert list(read_keys(totp)) == list(read_peppers(pepper)) == ["1"]
    assert totp.read_bytes() != pepper.read_bytes()
    assert {stat.S_IMODE(file.stat().st_mode) for file in (operator, totp, pepper)} == {0o600}
    files = (operator, totp, pepper, tmp_path / "operators.pub.pem")
    before = [file.read_bytes() for file in files]
    assert run("--out", str(tmp_path), "--service", "merchant_rpc").exit_code == 0
    assert before == [file.read_bytes() for file in files]


def test_the_key_of_channel_accounts_is_made_once_and_is_usable(tmp_path: Path) -> None:
    first = run("--out", str(tmp_path), "--service", "payment_rpc")
    assert first.exit_code == 0, first.output
    printed = dict(line.split("=", 1) for line in first.output.split())
    file = Path(printed["PAYMENT_RPC_ACCOUNT_KEY_FILE"])
    assert list(account_keys.read_keys(file)) == ["1"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    assert run("--out", str(tmp_path), "--service", "payment_rpc").exit_code == 0
    assert before == file.read_bytes()


def test_other_services_get_no_keys_of_people(tmp_path: Path) -> None:
    run("--out", str(tmp_path), "--service", "gateway")
    assert not list(tmp_path.glob("operators*"))
    assert not list(tmp_path.glob("totp*"))
    assert not list(tmp_path.glob("*.peppers"))
    assert not list(tmp_path.glob("*.keys"))


def test_the_authority_stays_and_certificates_are_fresh(tmp_path: Path) -> None:
    run("--out", str(tmp_path), "--service", "gateway")
    before = {name: (tmp_path / name).read_bytes() for name in ("ca.pem", "ca.key", "gateway.pem")}
    assert run("--out", str(tmp_path), "--service", "gateway").exit_code == 0
    after = {name: (tmp_path / name).read_bytes() for name in before}
    assert [name for name in before if before[name] != after[name]] == ["gateway.pem"]


@pytest.mark.parametrize("name", ["../x", "", "Payment", "a b"])
def test_a_name_that_is_no_service_is_refused(tmp_path: Path, name: str) -> None:
    result = run("--out", str(tmp_path / "tls"), "--service", name)
    assert result.exit_code == 2
    assert "--service" in result.output
    assert not (tmp_path / "tls").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("--out", str(tmp_path / "file" / "tls"))
    assert result.exit_code == 1
    assert "file" in result.output
    assert "Traceback" not in result.output

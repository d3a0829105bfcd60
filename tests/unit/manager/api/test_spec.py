# SPDX-License-Identifier: Apache-2.0
"""Are requests read by their declaration, and are the declarations sound?"""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import ApiParamError
from fastdl.manager.api import envelope
from fastdl.manager.api.catalog import describe
from fastdl.manager.api.page import page
from fastdl.manager.api.registry import COMMANDS
from fastdl.manager.api.spec import Bare, Listing, Single, read_args
from fastdl.manager.config import load
from fastdl.manager.settings import SETTINGS, Settings, check


def test_documented_commands_are_there() -> None:
    """What the contract and the architecture name."""
    documented = (
        "uploadTemplateDirectDownloadCertificate revokeTemplateDirectDownloadCertificate "
        "listTemplateDirectDownloadCertificates provisionTemplateDirectDownloadCertificate "
        "deleteTemplateDirectDownloadCertificate updateTemplateDirectDownloadCertificate "
        "registerTemplate registerIso listTemplates listIsos deleteTemplate deleteIso "
        "prepareTemplate listTemplateDownloads cancelTemplateDownload createZone updateZone "
        "listZones listHosts listStoragePools createHostToken listConfigurations "
        "updateConfiguration queryAsyncJobResult listAsyncJobs listEvents createUser "
        "registerUserKeys listHypervisors listOsTypes listApis"
    )
    for name in documented.split():
        assert COMMANDS[name.lower()].name == name


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda c: c.name)
def test_declarations_are_sound(command) -> None:  # type: ignore[no-untyped-def]
    """Names are lower-case and unique; what changes state says so; listApis can show it."""
    names = [param.name for param in command.params]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)
    if not command.name.startswith(("list", "query", "get", "check", "logout")):
        assert command.changes
    assert command.text
    json.dumps(describe(command))


@given(
    st.sampled_from(sorted(COMMANDS)),
    st.dictionaries(st.text(max_size=12), st.text(max_size=40), max_size=4),
)
def test_arbitrary_parameters_raise_one_class_only(name: str, given_: dict[str, str]) -> None:
    """Hostile parameters are ApiParamError or arguments."""
    command = COMMANDS[name]
    params = {param.name: "x" for param in command.params} | given_
    for values in (given_, params):
        try:
            read_args(command, values)
        except ApiParamError:
            continue


def test_maps_and_names_in_any_case() -> None:
    """details[0].KEY=VALUE keeps KEY as written; parameter names fold."""
    command = COMMANDS["registertemplate"]
    args = read_args(
        command,
        {
            "NAME": "n",
            "Url": "u",
            "format": "f",
            "hypervisor": "KVM",
            "details[0].HTTP_HEADER:X": "1",
            "Details[1].rootDiskController": "scsi",
            "unknown": "?",
        },
    )
    assert args["details"] == {"HTTP_HEADER:X": "1", "rootDiskController": "scsi"}
    assert args["name"] == "n"
    assert "unknown" not in args


@pytest.mark.parametrize("blank", ["", " ", "\t "])
def test_blanks_are_no_value(blank: str) -> None:
    """A template whose name nobody can see or type is not registered."""
    values = {"name": blank, "url": "u", "format": "f", "hypervisor": "KVM"}
    with pytest.raises(ApiParamError, match="missing parameter name"):
        read_args(COMMANDS["registertemplate"], values)


def test_envelopes_have_cloudstacks_shapes() -> None:
    """An empty list is an empty object, nulls are left out at every depth."""
    assert envelope.plain(Listing("zone", [])) == {}
    assert envelope.plain(Listing("zone", [{"a": None, "b": 1}], 9)) == {
        "count": 9,
        "zone": [{"b": 1}],
    }
    assert envelope.plain(Single("x", {"y": {"z": None}})) == {"x": {"y": {}}}
    assert envelope.plain(Bare({"success": True, "displaytext": None})) == {"success": True}
    body = envelope.error_body(431, "text", 4350)
    assert json.loads(envelope.render("r", body, as_json=True)) == {
        "r": {"uuidList": [], "errorcode": 431, "cserrorcode": 4350, "errortext": "text"}
    }


@given(
    st.recursive(
        st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.booleans(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ).map(lambda value: {"x": value})
)
def test_xml_is_always_well_formed(body: dict[str, object]) -> None:
    """A name in an answer must not be able to write markup."""
    text = envelope.render("response", body, as_json=False)
    ElementTree.fromstring(text.encode())


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda s: s.name)
def test_every_default_passes_its_own_check(setting) -> None:  # type: ignore[no-untyped-def]
    """A default that could not be set again would be a trap."""
    assert check(setting.name, setting.default) == setting.default


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no.such.setting", "1"),
        ("direct.download.connect.timeout", "0"),
        ("direct.download.connect.timeout", "soon"),
        ("direct.download.connect.timeout", "1.5"),
        ("store.download.follow.redirects", "yes"),
        ("secstorage.allowed.internal.sites", "10.0.0.0/99"),
        ("secstorage.allowed.internal.sites", "169.254.169.254/32"),
        ("direct.download.certificate.background.task.interval", "-1"),
        ("direct.download.certificate.background.task.interval", "nan"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(name: str, value: str) -> None:
    """Found when it is set, not when it is read."""
    with pytest.raises(ApiParamError):
        check(name, value)


def test_cloudstacks_defaults() -> None:
    """Operators know these numbers."""
    settings = Settings({"unknown": "x", "primary.storage.download.wait": "7"})
    assert settings.whole("direct.download.connect.timeout") == 5000
    assert settings.number("direct.download.certificate.background.task.interval") == 0
    assert settings.flag("store.download.follow.redirects") is False
    assert settings.whole("primary.storage.download.wait") == 7


def test_configuration_precedence(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The command line wins over the environment, that over the file."""
    file = tmp_path / "m.toml"
    file.write_text('state = "/f"\nlisten = "127.0.0.1:1"\nagent_listen = "127.0.0.1:2"\n')
    env = {"FASTDL_MANAGER_LISTEN": "127.0.0.1:3", "FASTDL_MANAGER_AGENT_LISTEN": "127.0.0.1:4"}
    config = load({"listen": "127.0.0.1:5", "state": None}, env, file)
    assert (str(config.state), config.listen, config.agent_listen) == (
        "/f",
        "127.0.0.1:5",
        "127.0.0.1:4",
    )


def test_the_api_page_is_current() -> None:
    """A command that is not in the documentation does not exist for its readers."""
    written = Path(__file__).parents[4] / "docs" / "api.md"
    assert written.read_text() == page(), "run: python -m fastdl.manager.api.page > docs/api.md"

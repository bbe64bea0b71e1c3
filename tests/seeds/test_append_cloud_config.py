"""A person appends cloud-config: what is wrong is refused with its line, before any row exists."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.errors import Invalid
from vms import cloudconfig


def refusal(text: str, **kwargs: str) -> Invalid:
    with pytest.raises(Invalid) as caught:
        cloudconfig.parse(text, **kwargs)
    assert caught.value.fields == {"user_data": caught.value.code}
    return caught.value


@pytest.mark.parametrize("text", ["", "  \n", "#cloud-config\n", "# only a comment", "---\n"])
def test_nothing_appended(text: str) -> None:
    assert cloudconfig.parse(text) == {}


def test_a_good_one_is_taken_with_or_without_the_header() -> None:
    text = "packages: [vim]\nruncmd:\n  - echo 'hi'\n  - [ls, -l]\n"
    wanted = {"packages": ["vim"], "runcmd": ["echo 'hi'", ["ls", "-l"]]}
    assert cloudconfig.parse(text) == wanted
    assert cloudconfig.parse("#cloud-config\n" + text) == wanted
    assert cloudconfig.parse("\ufeff#cloud-config\n" + text) == wanted


@pytest.mark.parametrize(
    ("text", "code", "params"),
    [
        ("packages: [vim\nx: 1", "cloudconfig.yaml", {"line": 2}),
        ("a: b: c", "cloudconfig.yaml", {"line": 1}),
        ("\tpackages: []", "cloudconfig.yaml", {"line": 1}),
        ("- vim\n- git", "cloudconfig.not_a_mapping", {}),
        ("just words", "cloudconfig.not_a_mapping", {}),
        ("packages: vim", "cloudconfig.wants_list", {"line": 1, "path": "packages"}),
        ("runcmd: [x]\ntimezone: 5", "cloudconfig.wants_text", {"line": 2, "path": "timezone"}),
        (
            "users:\n- default\n- name: 5\n",
            "cloudconfig.wants_text",
            {"line": 3, "path": "users[1].name"},
        ),
        (
            "write_files:\n- content: x\n",
            "cloudconfig.missing_key",
            {"line": 2, "path": "write_files[0]", "key": "path"},
        ),
        ("ntp:\n  enabled: sure", "cloudconfig.wants_yes_no", {"line": 2, "path": "ntp.enabled"}),
        ("package: [vim]", "cloudconfig.mistyped_key", {"line": 1, "better": "packages"}),
        ("runcmd: [x]\nfrobnicate: 1", "cloudconfig.unknown_key", {"line": 2}),
        ("1: x", "cloudconfig.key", {"line": 1}),
        ("users: {bob: {}}", "cloudconfig.wants_list", {"line": 1}),
        ("timezone: 2024-01-02", "cloudconfig.quote", {"line": 1, "path": "timezone"}),
        ("timezone: 2024-13-45", "cloudconfig.literal", {}),
        ("runcmd: [" + "9" * 5000 + "]", "cloudconfig.literal", {}),
        ("runcmd: [a]\nruncmd: [b]", "cloudconfig.twice", {"line": 2, "key": "runcmd"}),
        ("runcmd: [a]\n---\nruncmd: [b]", "cloudconfig.documents", {"line": 2}),
        ("a: &x [1]\nb: *x", "cloudconfig.alias", {"line": 2}),
        ("runcmd: !!python/object/apply:os.system [id]", "cloudconfig.yaml", {"line": 1}),
        ("a: \x00", "cloudconfig.characters", {}),
        ("a: \ud800", "cloudconfig.not_text", {}),
        ("x" * 20000, "cloudconfig.too_big", {"size_kib": 20, "limit_kib": 16}),
        ("[" * 10000, "cloudconfig.depth", {"line": 1}),
        ("hostname: other", "cloudconfig.hostname", {"line": 1}),
        ("fqdn: other.example.org", "cloudconfig.hostname", {"line": 1}),
        ("runcmd: [a]\nuser: eve", "cloudconfig.user", {"line": 2}),
        ("password: secret", "cloudconfig.password", {"line": 1}),
    ],
)
def test_what_is_wrong_is_named(text: str, code: str, params: dict[str, object]) -> None:
    error = refusal(text)
    assert error.code == code
    assert {k: error.params.get(k) for k in params} == params


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\nreboot",
        "#include\nhttp://example.org/x",
        "#include-once\nhttp://example.org/x",
        "## template: jinja\n#cloud-config\nruncmd: []",
        "Content-Type: multipart/mixed; boundary=x\n\n",
        "MIME-Version: 1.0\n",
        "#cloud-boothook\nx",
        "#cloud-config-archive\n- x",
        "#part-handler\nx",
        "\n  #!/bin/sh\nreboot",
    ],
)
def test_only_cloud_config_is_taken(text: str) -> None:
    assert refusal(text).code == "cloudconfig.kind"


def test_the_first_user_is_not_made_twice() -> None:
    assert refusal("users:\n- name: debian\n", first_user="debian").code == "cloudconfig.user_twice"
    assert refusal("users: [debian]", first_user="debian").code == "cloudconfig.user_twice"
    assert cloudconfig.parse("users:\n- name: eve\n", first_user="debian")


def test_merge_appends_and_the_persons_values_win() -> None:
    base = {"users": [{"name": "a"}], "ssh_pwauth": False, "runcmd": ["x"], "ntp": {"enabled": 1}}
    extra = {"users": "default", "ssh_pwauth": True, "runcmd": ["y"], "ntp": {"pools": ["z"]}}
    assert cloudconfig.merge(base, extra) == {
        "users": [{"name": "a"}, "default"],
        "ssh_pwauth": True,
        "runcmd": ["x", "y"],
        "ntp": {"enabled": 1, "pools": ["z"]},
    }
    assert base["users"] == [{"name": "a"}]


@given(st.text(max_size=400))
def test_any_text_is_a_mapping_or_a_refusal(text: str) -> None:
    with contextlib.suppress(Invalid):  # any other exception fails
        assert isinstance(cloudconfig.parse(text), dict)


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["users", "name", "runcmd", "ntp", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["users", "runcmd", "ntp", "chpasswd"]), yaml_values))
def test_any_structure_is_taken_or_refused(data: dict[str, object]) -> None:
    with contextlib.suppress(Invalid):
        assert cloudconfig.problems(cloudconfig.parse(cloudconfig.dump(data))) == []

# SPDX-License-Identifier: Apache-2.0
"""Do the units run as they are shipped, on a host as operators have it?

Under a real systemd, with libvirt, LVM, NFS in the kernel, a reboot and a power cut, on a
machine of its own. It takes some minutes: ``scripts/test-vm``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.env import vm, vm_image
from tests.env.units import EXPOSURE

pytestmark = pytest.mark.skipif(
    "FASTDL_VM" not in os.environ, reason="a machine of its own takes minutes: scripts/test-vm"
)

ORIGIN = "10.77.0.1"
UNITS = ("fastdl-manager", "fastdl-agent")
MIB = 1 << 20
SLOW = 24 * MIB
TOKEN = "/etc/fastdl/token"
POOLS = {
    "images": """<pool type='dir'><name>images</name>
        <target><path>/srv/images</path></target></pool>""",
    "volumes": """<pool type='logical'><name>volumes</name>
        <source><name>vg0</name></source><target><path>/dev/vg0</path></target></pool>""",
    "primary": f"""<pool type='netfs'><name>primary</name>
        <source><host name='{ORIGIN}'/><dir path='/srv/primary'/><format type='nfs'/></source>
        <target><path>/mnt/primary</path></target></pool>""",
}
_FOLDERS = {"images": "/srv/images", "volumes": "/dev/vg0", "primary": "/mnt/primary"}
RESTRICTED = "/sys/kernel/tracing/events/syscalls/sys_exit_landlock_restrict_self"
_API = ("fastdl", "api", "--credentials", "/var/lib/fastdl/manager/admin.json")
DONE = """import json, sys
for row in json.load(sys.stdin).get("templatedownload", []):
    if row["storageid"] == sys.argv[1]:
        print(row["installpath"] if row["state"] == "DONE" else row)
        sys.exit(row["state"] != "DONE")
sys.exit("there is no such download")
"""
DURABLE = """import struct, sys
journal = open(sys.argv[1], "rb").read()  # see fastdl/engine/journal.py
records = journal[12 + struct.unpack_from("<I", journal, 8)[0] + 12:]
done = sum(struct.unpack_from("<16xQ", records, at)[0] for at in range(0, len(records) - 39, 40))
print(done)
sys.exit(done < int(sys.argv[2]))
"""
CONNECTED = "journalctl -u fastdl-agent -o cat | grep -c ^connected"
NGINX = """log_format sent '$msec $status $body_bytes_sent';
server { listen 10.77.0.1:80; listen 10.77.0.1:443 ssl; root /var/www/html;
    access_log /var/log/nginx/sent.log sent;
    ssl_certificate /etc/nginx/origin.pem; ssl_certificate_key /etc/nginx/origin.key;
    location / { } location /slow/ { alias /var/www/html/; limit_rate 400k; } }
"""
SENT = """awk -v start="$(date -d "$(uptime -s)" +%s)" '
    $1 > start && $2 ~ /^20/ {sent += $3} END {print sent + 0}' /var/log/nginx/sent.log"""
PREPARE = """set -e
ln -s /opt/fastdl/bin/fastdl /usr/local/bin/fastdl
/opt/fastdl/packaging/install
vgcreate -q vg0 /dev/vdc
mkdir -p /srv/images /srv/primary /srv/export /mnt/primary
head -c 3000000 /dev/urandom > /var/www/html/x.raw
head -c SLOW /dev/urandom > /var/www/html/slow.raw
qemu-img convert -f raw -O qcow2 -c /var/www/html/x.raw /var/www/html/x.qcow2
cp /var/www/html/x.raw /srv/export/x.raw
cat > /etc/exports <<END
/srv/primary 10.77.0.0/24(rw,no_root_squash,no_subtree_check)
/srv/export 10.77.0.0/24(ro,secure,no_subtree_check)
END
rm -f /etc/nginx/sites-enabled/default
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=origin \
    -addext subjectAltName=IP:ORIGIN -keyout /etc/nginx/origin.key -out /etc/nginx/origin.pem 2>&1
systemctl enable -q --now nfs-server nginx libvirtd
"""


@dataclass(slots=True)
class Site:
    """One host with a manager and an agent; *pools*: name → id."""

    machine: vm.Machine
    zone: str = ""
    pools: dict[str, str] = field(default_factory=dict)

    def api(self, *words: str) -> Any:
        """The answer to ``fastdl api WORDS``."""
        return json.loads(self.machine.run(shlex.join([*_API, *words])))

    def start(self, unit: str) -> None:
        """Enable and start it; RuntimeError with its log where it does not start."""
        log = f"journalctl -u {unit} -o cat --no-pager"
        words = f"systemctl enable -q --now {unit} || {{ {log}; false; }}"
        self.machine.run(words, timeout=vm.BOOT_S)

    def registered(self, url: str, name: str, *more: str) -> str:
        """The id of a template."""
        path = "/var/www/html/" + url.rpartition("/")[2]
        digest = self.machine.run(f"sha256sum {path}").split()[0]
        made = self.api(
            "register",
            "template",
            f"name={name}",
            f"displaytext={name}",
            "hypervisor=KVM",
            f"zoneid={self.zone}",
            f"url={url}",
            "directdownload=true",
            f"checksum={{SHA-256}}{digest}",
            *more,
        )
        found: str = made["template"][0]["id"]
        return found

    def prepare(self, template: str, pool: str) -> None:
        """Have *template* brought to *pool*."""
        words = (f"zoneid={self.zone}", f"templateid={template}", f"storageid={self.pools[pool]}")
        self.api("prepare", "template", *words)

    def arrived(self, template: str, pool: str, *, timeout: float = 120) -> str:
        """The path of the copy, once it is there."""
        asked = shlex.join([*_API, "list", "templatedownloads", f"templateid={template}"])
        said = self.machine.wait_for(
            f"{asked} | python3 /root/done.py {self.pools[pool]}", timeout=timeout
        )
        return f"{_FOLDERS[pool]}/{said.strip()}"

    def log(self, unit: str) -> str:
        """What it has said since it was installed."""
        return self.machine.run(f"journalctl -u {unit} -o cat --no-pager")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A host on which both units run, as docs/operations.md says."""
    if why := vm_image.missing():
        pytest.skip(why)
    with vm.machine(tmp_path_factory.mktemp("vm")) as machine:
        made = Site(machine)
        machine.write("/root/done.py", DONE)
        machine.write("/root/durable.py", DURABLE)
        machine.write("/etc/nginx/conf.d/origin.conf", NGINX)
        machine.run(PREPARE.replace("SLOW", str(SLOW)).replace("ORIGIN", ORIGIN), timeout=300)
        for name, text in POOLS.items():
            machine.write(f"/root/{name}.xml", text)
            machine.run(
                f"virsh pool-define /root/{name}.xml && virsh pool-start {name} && "
                f"virsh pool-autostart {name}"
            )
        machine.write("/etc/fastdl/manager.env", "FASTDL_MANAGER_LISTEN=127.0.0.1:8088\n")
        made.start("fastdl-manager")
        machine.wait_for("test -s /var/lib/fastdl/manager/admin.json")
        made.zone = made.api("create", "zone", "name=z1")["zone"]["id"]
        made.api(
            "update", "configuration", "name=direct.download.nfs.servers", f"value={ORIGIN}/32"
        )
        machine.write(TOKEN, made.api("create", "hosttoken", f"zoneid={made.zone}")["token"])
        machine.run(f"chmod 600 {TOKEN}")
        machine.write(
            "/etc/default/fastdl-agent",
            f"FASTDL_AGENT_OPTIONS=--manager https://127.0.0.1:8250 --token-file {TOKEN}\n",
        )
        made.start("fastdl-agent")
        machine.wait_for("test -s /etc/cloudstack/agent/agent.properties")
        machine.wait_for(f"test $({CONNECTED}) = 1")
        machine.run(
            "echo fastdl.confinement=required >> /etc/cloudstack/agent/agent.properties;"
            "systemctl restart fastdl-agent"
        )
        machine.wait_for(f"test $({CONNECTED}) = 2")
        made.pools = {p["name"]: p["id"] for p in made.api("list", "storagepools")["storagepool"]}
        yield made


def test_both_units_start_as_they_are_shipped(site: Site) -> None:
    """Where CloudStack has never been: what the agent needs is made, and nobody starts over."""
    for unit in UNITS:
        shown = site.machine.run(f"systemctl show -p ActiveState,NRestarts,MainPID {unit}")
        fields = dict(line.split("=") for line in shown.split())
        assert (fields["ActiveState"], fields["NRestarts"]) == ("active", "0"), site.log(unit)
        user = site.machine.run(f"stat -c %U /proc/{fields['MainPID']}").strip()
        assert user == ("fastdl" if unit == "fastdl-manager" else "root")
    assert site.pools.keys() == POOLS.keys()
    modes = site.machine.run(
        "cd /var/lib/fastdl; stat -c '%n %a' agent manager agent/host.key manager/admin.json;"
        "cd /etc/cloudstack; stat -c '%n %a' agent agent/cloud.jks agent/agent.properties"
    )
    assert modes.split() == [
        *("agent", "700", "manager", "700", "agent/host.key", "600", "manager/admin.json", "600"),
        *("agent", "755", "agent/cloud.jks", "600", "agent/agent.properties", "600"),
    ]


def test_the_units_are_as_closed_as_promised(site: Site) -> None:
    """By the systemd that runs them, which takes drop-ins and its own version into account."""
    for unit, at_most in EXPOSURE.items():
        said = site.machine.run(f"systemd-analyze security --no-pager {unit} | tail -1")
        found = re.search(r"exposure level for .*: ([\d.]+)", said)
        assert found, said
        assert float(found[1]) <= at_most


def test_a_template_arrives_in_a_folder_for_everybody_to_read(site: Site) -> None:
    """qemu runs as another user, and so does whoever looks up where a template came from."""
    template = site.registered(f"http://{ORIGIN}/x.raw", "folder", "format=RAW")
    site.prepare(template, "images")
    path = site.arrived(template, "images")
    site.machine.run(f"runuser -u nobody -- cmp {path} /var/www/html/x.raw")
    name = Path(path).name
    known = json.loads(
        site.machine.run(f"runuser -u nobody -- cat /srv/images/.fastdl/{name}.json")
    )
    assert known["complete"]
    found = "find /srv/images/.fastdl /var/lib/fastdl/agent /etc/cloudstack -type f -perm /077"
    for each in site.machine.run(found).split():
        assert re.fullmatch(r"/srv/images/\.fastdl/[^./]+\.json", each)
    assert name in site.machine.run("virsh vol-list images")


def test_a_certificate_reaches_the_host_and_counts(site: Site) -> None:
    """It lands in the keystore that the unit made a place for; downloads ask for it."""
    site.api(
        "upload",
        "templatedirectdownloadcertificate",
        "hypervisor=KVM",
        "name=origin",
        f"zoneid={site.zone}",
        "certificate=" + site.machine.run("cat /etc/nginx/origin.pem"),
    )
    site.machine.run(
        "cd /etc/cloudstack/agent; umask 077;"
        "sed -n s/^keystore.passphrase=//p agent.properties > /root/pass"
    )
    site.machine.wait_for(
        "fastdl keystore list --keystore /etc/cloudstack/agent/cloud.jks --pass-file /root/pass |"
        "grep -w origin"
    )
    template = site.registered(f"https://{ORIGIN}/x.raw", "https", "format=RAW")
    site.prepare(template, "images")
    site.machine.run(f"cmp {site.arrived(template, 'images')} /var/www/html/x.raw")


def test_an_image_becomes_a_volume_of_lvm(site: Site) -> None:
    """The unit leaves block devices to the agent, and the agent opens them for the download."""
    template = site.registered(f"http://{ORIGIN}/x.qcow2", "volume", "format=QCOW2")
    site.prepare(template, "volumes")
    path = site.arrived(template, "volumes")
    site.machine.run(f"cmp -n $(stat -c %s /var/www/html/x.raw) {path} /var/www/html/x.raw")


def test_a_template_arrives_on_a_share_of_the_kernels(site: Site) -> None:
    """NFS on both sides in the kernel: other locks, other refusals than the local disk's."""
    template = site.registered(f"http://{ORIGIN}/x.raw", "share", "format=RAW")
    site.prepare(template, "primary")
    path = site.arrived(template, "primary")
    site.machine.run(f"cmp {path} /var/www/html/x.raw")
    site.machine.run(f"cmp /srv/primary/{Path(path).name} /var/www/html/x.raw")


def test_a_template_comes_from_a_secure_export(site: Site) -> None:
    """Which wants a port of root's: the process that reads it is nobody."""
    template = site.registered(f"nfs://{ORIGIN}/srv/export/x.raw", "export", "format=RAW")
    site.prepare(template, "images")
    path = site.arrived(template, "images")
    site.machine.run(f"cmp {path} /var/www/html/x.raw")


def test_what_reads_the_origin_is_confined_in_full_under_the_unit(site: Site) -> None:
    """As the kernel tells it while it runs; the unit's own filter must leave it the calls."""
    site.machine.run(
        "mountpoint -q /sys/kernel/tracing || mount -t tracefs none /sys/kernel/tracing;"
        f"echo 1 > {RESTRICTED}/enable"
    )
    template = site.registered(f"http://{ORIGIN}/slow/slow.raw", "confined", "format=RAW")
    site.prepare(template, "images")
    shown = site.machine.wait_for(
        "pid=$(pgrep -u fastdl-worker) && cat /proc/$pid/status && ls -l /proc/$pid/fd"
    )
    fields = {
        key: value.split() for key, _, value in (line.partition(":") for line in shown.splitlines())
    }
    worker = site.machine.run("id -u fastdl-worker; id -g fastdl-worker").split()
    assert (fields["Uid"], fields["Gid"]) == ([worker[0]] * 4, [worker[1]] * 4)
    assert fields["Groups"] == []
    assert fields["CapPrm"] == fields["CapEff"] == fields["CapAmb"] == ["0" * 16]
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == (["1"], ["2"])
    (pid,) = fields["Pid"]
    entered = site.machine.run("cat /sys/kernel/tracing/trace")  # Landlock is in no file of /proc
    assert re.search(rf"-{pid} .*sys_landlock_restrict_self -> 0x0$", entered, re.MULTILINE)
    site.arrived(template, "images")
    assert "confined" not in site.log("fastdl-agent")


@pytest.mark.parametrize(
    ("how", "pool", "journals"),
    [
        ("power cut", "primary", "/mnt/primary/.fastdl/new"),
        ("reboot", "volumes", "/var/lib/fastdl/agent/engine/journals"),
    ],
)
def test_a_download_resumes_after_the_machine_was_off(
    site: Site, how: str, pool: str, journals: str
) -> None:
    """By itself, from what is on disk; nobody asks for it again."""
    name = how.replace(" ", "-")
    template = site.registered(f"http://{ORIGIN}/slow/slow.raw", name, "format=RAW")
    site.prepare(template, pool)
    half = SLOW // 2
    site.machine.wait_for(
        f"python3 /root/durable.py $(find {journals} -name '*journal') {half}", pause=0.2
    )
    if how == "reboot":
        # A client of its own server, which systemd would stop first, and then wait for.
        site.machine.run("virsh pool-destroy primary")
        site.machine.reboot()
    else:
        site.machine.cut_power()
    path = site.arrived(template, pool, timeout=240)
    site.machine.run(f"cmp -n {SLOW} {path} /var/www/html/slow.raw")
    assert int(site.machine.run(SENT)) < half + SLOW // 4
    for unit in UNITS:
        assert site.machine.run(f"systemctl is-active {unit}").strip() == "active"

#!/usr/bin/env python3
"""Renders the Kubernetes manifests, checks the rules that they must keep, and plays the pods.

    scripts/kubernetes-test.py                      renders and checks
    scripts/kubernetes-test.py --synodkv PROGRAM    also starts three processes as the manifests say, each in a network
                                                    namespace of its own with the names of the pods, and certificates made
                                                    as docs/INSTALL.md says; asks the probes, and goes through a rolling
                                                    update. Needs root.

Needs kubectl (for `kubectl kustomize`; nothing is sent to a cluster) and PyYAML. Without kubectl it says so and passes.
"""

import argparse
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent / "deploy" / "kubernetes"
APP = {"app.kubernetes.io/name": "synodkv"}
NETWORK = "10.177.90"


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


def render(folder):
    """The objects by kind and name."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode != 0 or done.stderr.strip():
        sys.exit(f"kubectl kustomize {folder}:\n{done.stderr}")
    objects = [document for document in yaml.safe_load_all(done.stdout) if document]
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def check(what, holds):
    if not holds:
        sys.exit(f"error: {what}")


def container(objects):
    return objects["StatefulSet", "synodkv"]["spec"]["template"]["spec"]["containers"][0]


def configuration(objects):
    maps = [each for (kind, _), each in objects.items() if kind == "ConfigMap"]
    check("there is one ConfigMap", len(maps) == 1)
    volumes = objects["StatefulSet", "synodkv"]["spec"]["template"]["spec"]["volumes"]
    named = [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
    check("the pods mount the generated ConfigMap", named == [maps[0]["metadata"]["name"]])
    return maps[0]["data"]["synodkv.toml"]


def check_rules(objects, voters):
    """Each rule is one that broke clusters of such databases elsewhere."""
    spec = objects["StatefulSet", "synodkv"]["spec"]
    pod, main = spec["template"]["spec"], container(objects)
    check("as many pods as voters", spec["replicas"] == voters)
    check("all pods start at once", spec["podManagementPolicy"] == "Parallel")
    check("updates go one by one", spec["updateStrategy"] == {"type": "RollingUpdate"})
    check("volumes outlive pods", set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"})
    check("a stop changes no members", "lifecycle" not in main)
    check("a stop has time", pod["terminationGracePeriodSeconds"] >= 60)
    check("no variables of Services", pod["enableServiceLinks"] is False)
    check("no root", pod["securityContext"]["runAsNonRoot"] and main["securityContext"]["readOnlyRootFilesystem"])
    for probe in ["startupProbe", "livenessProbe"]:
        check(f"{probe} depends on this process alone", main[probe]["httpGet"]["path"] == "/health/live")
    check("a start may take five minutes", main["startupProbe"]["failureThreshold"] * main["startupProbe"]["periodSeconds"] >= 300)
    check("readiness is that of reads", main["readinessProbe"]["httpGet"]["path"] == "/health/ready")
    spread = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    check("no two pods on a host", [term["topologyKey"] for term in spread] == ["kubernetes.io/hostname"])
    budget = objects["PodDisruptionBudget", "synodkv"]["spec"]
    check("a majority stays, as a number", budget.get("minAvailable") == voters // 2 + 1 and "maxUnavailable" not in budget)
    check("the budget is about these pods", budget["selector"] == {"matchLabels": APP})
    check("the policy is about these pods", objects["NetworkPolicy", "synodkv"]["spec"]["podSelector"] == {"matchLabels": APP})
    for name in ["synodkv", "synodkv-peers"]:
        service = objects["Service", name]["spec"]
        check(f"the names in {name} do not depend on readiness", service["publishNotReadyAddresses"] is True)
        check(f"{name} selects these pods", service["selector"] == APP)
        ports = {port["name"] for port in main["ports"]}
        check(f"{name} leads to ports of the pods", {port["targetPort"] for port in service["ports"]} <= ports)
    check("the headless Service names the pods", objects["Service", "synodkv-peers"]["spec"]["clusterIP"] == "None")
    check("its name is that of the pods", spec["serviceName"] == "synodkv-peers")
    text = configuration(objects)
    for ordinal in range(voters):
        check(f"pod {ordinal} is in the configuration", f'"synodkv-{ordinal}.synodkv-peers:6001"' in text)
    check("no other pod is", f"synodkv-{voters}.synodkv-peers" not in text)


class Pod:
    """A process with the environment, the arguments and the names that the manifests give a pod."""

    def __init__(self, ordinal, objects, program, folder):
        self.name, self.ordinal, self.program, self.folder = f"synodkv-{ordinal}", ordinal, program, folder
        self.main, self.process = container(objects), None
        self.namespace, self.address = f"synodkv-test-{ordinal}", f"{NETWORK}.{10 + ordinal}"

    def environment(self):
        variables = {}
        for each in self.main["env"]:
            if "valueFrom" in each:
                field = each["valueFrom"]["fieldRef"]["fieldPath"]
                check("the only field is the ordinal", field == "metadata.labels['apps.kubernetes.io/pod-index']")
                value = str(self.ordinal)
            else:
                value = each["value"]
                for name, known in variables.items():
                    value = value.replace(f"$({name})", known)
            check(f"{each['name']} refers to variables before it", "$(" not in value)
            variables[each["name"]] = self.placed(value)
        return variables

    def placed(self, value):
        """Where the mounts of the pod are on this machine."""
        for mount in self.main["volumeMounts"]:
            if value.startswith(mount["mountPath"] + "/"):
                places = {"data": self.folder / f"data-{self.ordinal}", "config": self.folder / "config", "tls": self.folder / "certs"}
                return value.replace(mount["mountPath"], str(places[mount["name"]]), 1)
        return value

    def start(self):
        arguments = [self.placed(argument) for argument in self.main["args"]]
        log = open(self.folder / f"{self.name}.log", "a")
        command = ["ip", "netns", "exec", self.namespace, self.program, *arguments]
        self.process = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(self.main_grace)
        check(f"{self.name} stops in good order: {status}", status == 0)

    main_grace = 60

    def probe(self, name):
        """The status of a probe, as the kubelet asks it: at the pod's address, without looking at the certificate."""
        wanted = self.main[name]["httpGet"]
        port = next(port["containerPort"] for port in self.main["ports"] if port["name"] == wanted["port"])
        url = f"{wanted['scheme'].lower()}://{self.address}:{port}{wanted['path']}"
        context = ssl._create_unverified_context()
        try:
            return urllib.request.urlopen(url, timeout=self.main[name].get("timeoutSeconds", 1), context=context).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def until(self, name, status, seconds=60):
        deadline = time.monotonic() + seconds
        while (seen := self.probe(name)) != status:
            if time.monotonic() > deadline or self.process.poll() is not None:
                print((self.folder / f"{self.name}.log").read_text()[-4000:], file=sys.stderr)
                sys.exit(f"error: {name} of {self.name} is {seen}, expected {status}")
            time.sleep(0.2)


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


def make_network(pods):
    run("ip", "link", "add", "synodkv-test", "type", "bridge")
    run("ip", "address", "add", f"{NETWORK}.1/24", "dev", "synodkv-test")
    run("ip", "link", "set", "synodkv-test", "up")
    names = "127.0.0.1 localhost\n" + "".join(f"{pod.address} {pod.name}.synodkv-peers\n" for pod in pods)
    for pod in pods:
        run("ip", "netns", "add", pod.namespace)
        outside, inside = f"skv{pod.ordinal}", "eth0"
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", pod.namespace)
        run("ip", "link", "set", outside, "master", "synodkv-test", "up")
        run("ip", "-n", pod.namespace, "address", "add", f"{pod.address}/24", "dev", inside)
        run("ip", "-n", pod.namespace, "link", "set", inside, "up")
        run("ip", "-n", pod.namespace, "link", "set", "lo", "up")
        # `ip netns exec` puts it in the place of /etc/hosts.
        folder = Path("/etc/netns") / pod.namespace
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(names)


def remove_network(pods):
    for pod in pods:
        subprocess.run(["ip", "netns", "del", pod.namespace], stderr=subprocess.DEVNULL)
        shutil.rmtree(Path("/etc/netns") / pod.namespace, ignore_errors=True)
    subprocess.run(["ip", "link", "del", "synodkv-test"], stderr=subprocess.DEVNULL)


def play(objects, program, folder):
    pods = [Pod(ordinal, objects, program, folder) for ordinal in range(3)]
    (folder / "config").mkdir()
    config = folder / "config" / "synodkv.toml"
    config.write_text(configuration(objects))
    for pod in pods:
        (folder / f"data-{pod.ordinal}").mkdir()
    certs = ["--dir", str(folder / "certs")]
    run(program, "cert", "init", *certs)
    run(program, "cert", "issue", "replica", "--config", config, *certs)
    admin = ",".join(f"{pod.name}.synodkv-peers:9190" for pod in pods)
    thrift = admin.replace("9190", "9090")

    def client(*arguments, identity=True, pod=pods[0]):
        """A command in a pod of the same network."""
        access = ["--token-file", str(folder / "root.token")] if identity else []
        command = ["ip", "netns", "exec", pod.namespace, program, *arguments, "--ca", str(folder / "certs" / "ca.pem"), *access]
        variables = {"SYNODKV_ADDR": thrift, "SYNODKV_ADMIN": admin, "HOME": str(folder)}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
        check(f"{arguments}: {done.stdout}{done.stderr}", done.returncode == 0)
        return done.stdout

    try:
        make_network(pods)
        say("two pods: alive, but not ready, because the first start of a cluster needs all of them")
        pods[0].start()
        pods[1].start()
        for pod in pods[:2]:
            pod.until("startupProbe", 200)
            check("it is not ready", pod.probe("readinessProbe") == 503)
        pods[2].start()
        say("three pods: ready")
        for pod in pods:
            pod.until("readinessProbe", 200)
        say("the first user, as through `kubectl port-forward`; then clients")
        client("auth", "enable", "--root-token-file", str(folder / "root.token"), "--admin", "localhost:9190", identity=False)
        client("set", "hello", "world")
        check("the value", client("get", "hello") == "world")
        say("a rolling update, as the controller does it: the highest ordinal first, the next when it is ready")
        for pod in reversed(pods):
            pod.stop()
            pod.start()
            pod.until("startupProbe", 200)
            pod.until("readinessProbe", 200)
            check("the value meanwhile", client("get", "hello") == "world")
        client("upgrade", "wait", "--node", "0", "--node", "1", "--node", "2")
        client("verify")
        say("without a majority: not ready, and still alive, so nothing is restarted")
        pods[1].stop()
        pods[2].stop()
        pods[0].until("readinessProbe", 503)
        check("it is alive", pods[0].probe("livenessProbe") == 200)
        pods[0].stop()
    finally:
        for pod in pods:
            if pod.process and pod.process.poll() is None:
                pod.process.kill()
                pod.process.wait()
        remove_network(pods)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synodkv", metavar="PROGRAM", help="play the pods with this program")
    given = parser.parse_args()
    if not shutil.which("kubectl"):
        return say("skipped: kubectl is not installed")
    say("rendering")
    base = render(ROOT / "base")
    check_rules(base, 3)
    tried = render(ROOT / "overlays" / "trusted-network")
    check_rules(tried, 3)
    check("no TLS remains there", "TLS" not in json.dumps(container(tried)) and "HTTPS" not in json.dumps(container(tried)))
    check("there is TLS in the base", container(base)["livenessProbe"]["httpGet"]["scheme"] == "HTTPS")
    check_rules(render(ROOT / "overlays" / "five-replicas"), 5)
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder) / "kustomization.yaml"
        paths = [os.path.relpath(ROOT / part, Path(folder).resolve()) for part in ["base", "components/prometheus"]]
        overlay.write_text(yaml.safe_dump({"resources": paths[:1], "components": paths[1:]}))
        monitored = render(folder)
        check("there is a ServiceMonitor", ("ServiceMonitor", "synodkv") in monitored)
    if not given.synodkv:
        return say("the manifests keep the rules")
    if os.geteuid() != 0:
        sys.exit("error: --synodkv makes network namespaces: run it as root")
    with tempfile.TemporaryDirectory() as folder:
        play(base, str(Path(given.synodkv).resolve()), Path(folder))
    say("the manifests keep the rules, and the pods work")


if __name__ == "__main__":
    main()

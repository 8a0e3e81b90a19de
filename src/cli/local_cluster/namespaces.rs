//! Nodes on hosts of their own, as far as the network goes: each in a network namespace, all on one bridge, from which
//! a node can be taken. Nothing then reaches it and nothing of it reaches anybody, and nobody is told: its packets are
//! lost, and so is the first packet of a new connection.
//!
//! All of it is made inside namespaces that this program starts itself again in, so that the kernel removes it with the
//! last process in them, however that ends.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// Set for the inner process: where it keeps its data. The outer one removes it.
const INSIDE: &str = "QUORATE_INSIDE_NAMESPACES";
/// Where `ip netns` keeps its names: in a file system of this program's own.
const NAMES: &str = "/run/netns";
const BRIDGE: &str = "quorate";
/// This process on the bridge: above every node.
const HERE: u8 = 254;

/// The data directory that the outer process made; none for a process that is not the inner one.
pub fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Starts this program again with the same arguments in namespaces of its own, and waits for its end. When it is to
/// stop, everything inside is killed; `data` is the caller's to remove.
///
/// # Errors
///
/// If there are no namespaces for this user, or `unshare` (util-linux) or `ip` (iproute2) is missing.
pub async fn enter(data: PathBuf, stop: &CancellationToken) -> anyhow::Result<ExitCode> {
    run("unshare", [&namespaces()[..], &["ip", "link", "add", BRIDGE, "type", "bridge"]].concat())
        .await
        .context("there are no network namespaces for this user, who has to be root or allowed to make them")?;
    let mut command = Command::new("unshare");
    command.args(namespaces()).arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    // In a process group of its own: Ctrl-C is for this process, which then kills that one.
    command.env(INSIDE, data).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().context("cannot run unshare")?;
    match stop.run_until_cancelled(child.wait()).await {
        Some(status) => {
            let code = status?.code().and_then(|code| u8::try_from(code).ok());
            Ok(ExitCode::from(code.context("it was killed")?))
        }
        None => {
            child.kill().await?;
            bail!("interrupted: nothing was measured")
        }
    }
}

/// What `unshare` is told. The first process inside is the first of a namespace of processes: with it all others end.
fn namespaces() -> Vec<&'static str> {
    let mut all = vec!["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !rustix::process::geteuid().is_root() {
        all.push("--map-root-user");
    }
    all
}

/// The address of a node. Nothing outside the namespaces sees it.
pub(super) fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, host)
}

/// The name of a node's namespace, and of its cable's end at the bridge.
pub(super) fn name(host: u8) -> String {
    format!("node{host}")
}

/// Makes the bridge and the namespaces of the nodes 1 to `nodes`.
pub(super) async fn lay(nodes: u8) -> anyhow::Result<()> {
    run("mount", words("-t tmpfs quorate /run")).await?;
    std::fs::create_dir(NAMES).with_context(|| format!("cannot make {NAMES}"))?;
    ip("link set lo up").await?;
    ip(&format!("link add {BRIDGE} address {} type bridge", hardware(HERE))).await?;
    ip(&format!("addr add {}/24 dev {BRIDGE}", address(HERE))).await?;
    ip(&format!("link set {BRIDGE} up")).await?;
    for host in 1..=nodes {
        let (name, mac) = (name(host), hardware(host));
        ip(&format!("netns add {name}")).await?;
        ip(&format!("link add {name} type veth peer name eth0 address {mac} netns {name}")).await?;
        ip(&format!("link set {name} master {BRIDGE} up")).await?;
        ip(&format!("-n {name} addr add {}/24 dev eth0", address(host))).await?;
        ip(&format!("-n {name} link set lo up")).await?;
        ip(&format!("-n {name} link set eth0 up")).await?;
    }
    // Everybody knows everybody's hardware address for good: otherwise the search for that of a lost node would end with
    // an error that tells senders of the loss.
    for host in 1..=nodes {
        ip(&format!("neigh add {} lladdr {} dev {BRIDGE}", address(host), hardware(host))).await?;
        for other in (1..=nodes).chain([HERE]).filter(|other| *other != host) {
            let (address, mac) = (address(other), hardware(other));
            let at = name(host);
            ip(&format!("-n {at} neigh add {address} lladdr {mac} dev eth0")).await?;
        }
    }
    Ok(())
}

/// Loses every packet to and from a node from now on.
pub(super) async fn cut(host: u8) -> anyhow::Result<()> {
    ip(&format!("link set {} nomaster", name(host))).await
}

/// Loses no more packets of a node.
pub(super) async fn mend(host: u8) -> anyhow::Result<()> {
    ip(&format!("link set {} master {BRIDGE}", name(host))).await
}

fn hardware(host: u8) -> String {
    // Locally administered.
    format!("02:00:00:00:00:{host:02x}")
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

async fn ip(arguments: &str) -> anyhow::Result<()> {
    run("ip", words(arguments)).await
}

/// Runs a program of the system to its end.
async fn run(program: &str, arguments: Vec<&str>) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    let output = command.args(&arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = output.await.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

/// A command that runs a program in a node's namespace; the process is the program's own.
pub(super) fn within(host: u8, program: OsString) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &name(host)]).arg(program);
    command
}

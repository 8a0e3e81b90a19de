//! Nothing of a run is left behind, whatever ends it: no process, mount, loop device or network device.
//!
//! The `quorate` of these runs is a script whose nodes never answer: so a run stands where everything of it exists that
//! could be left behind. Where a machine has no namespaces to give, the test sees that a run says so, and how to do
//! without; what needs none is tested everywhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// In the environment of everything that a run starts, and so what it is known by.
const MARK: &str = "CLEANUP_TEST";
const DEADLINE: Duration = Duration::from_secs(60);
const NODES: usize = 3;

const QUORATE: &str = "#!/bin/sh
case \"$1\" in
  serve) cat > /dev/null ;;
  *) echo 'quorate 0' ;;
esac
";

/// Which process of a run is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    /// The one that was started here.
    Outer,
    /// The one between them that made the namespaces.
    Unshare,
    /// The one in namespaces of its own, which does the work.
    Inner,
}

/// A process of a run.
struct Found {
    pid: Pid,
    words: String,
    is_inside: bool,
}

#[tokio::test]
async fn nothing_is_left_of_a_run_in_namespaces() {
    let listed = Command::new(env!("CARGO_BIN_EXE_quorate-jepsen")).arg("list").output().unwrap();
    if String::from_utf8_lossy(&listed.stdout).contains("Nodes cannot have network namespaces") {
        let dir = tempfile::tempdir().unwrap();
        let ended = start(dir.path(), "namespaces").wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(2));
        let says = String::from_utf8_lossy(&ended.stderr);
        assert!(says.contains("--network loopback"), "{says}");
        eprintln!("there are no namespaces here; all that was tested is that it says so: {says}");
        return;
    }
    for (signal, whom) in [
        (Signal::INT, Whom::Outer),
        (Signal::TERM, Whom::Outer),
        (Signal::KILL, Whom::Outer),
        (Signal::KILL, Whom::Unshare),
        (Signal::KILL, Whom::Inner),
    ] {
        nothing_is_left("namespaces", signal, whom).await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_run_on_loopback() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        nothing_is_left("loopback", signal, Whom::Outer).await;
    }
}

async fn nothing_is_left(network: &str, signal: Signal, whom: Whom) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let run = start(&dir, network);
    let nodes = |all: &[Found]| all.iter().filter(|one| one.words.contains(" serve ")).count();
    wait_for("the nodes to run", || nodes(&processes_of(&dir)) == NODES).await;
    let all = processes_of(&dir);
    let is_whom = |one: &&Found| match whom {
        Whom::Outer => !one.is_inside && one.words.contains("quorate-jepsen run"),
        Whom::Unshare => one.words.starts_with("unshare "),
        Whom::Inner => one.is_inside && one.words.starts_with(env!("CARGO_BIN_EXE_quorate-jepsen")),
    };
    let target = all.iter().find(is_whom).unwrap_or_else(|| panic!("there is no {whom:?}"));
    kill_process(target.pid, signal).unwrap();

    let Output { status, .. } = run.wait_with_output().unwrap();
    let is_killed = (signal, whom) == (Signal::KILL, Whom::Outer);
    assert_eq!(status.code(), (!is_killed).then_some(2), "{signal:?} of {whom:?}: {status}");
    wait_for("everything to be gone", || left_of(&dir).is_empty()).await;
    let images = fs::read_dir(dir.join("run/nodes")).unwrap().flatten();
    let images = images.filter(|file| file.path().extension().is_some_and(|e| e == "img"));
    assert_eq!(images.count(), 0, "{signal:?} of {whom:?} leaves images of disks");
}

fn start(dir: &Path, network: &str) -> Child {
    let quorate = dir.join("quorate");
    fs::write(&quorate, QUORATE).unwrap();
    fs::set_permissions(&quorate, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-jepsen"));
    command.args(["run", "--nodes", "3", "--network", network, "--binary"]).arg(quorate);
    command.arg("--dir").arg(dir.join("run")).env(MARK, dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn processes_of(dir: &Path) -> Vec<Found> {
    let mark = format!("{MARK}={}", dir.display());
    let found = |process: fs::DirEntry| {
        let pid = Pid::from_raw(process.file_name().to_str()?.parse().ok()?)?;
        let read = |file: &str| fs::read(process.path().join(file)).ok();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ");
        let environment = text(read("environ")?);
        let words = text(read("cmdline")?);
        let is_inside = environment.contains("JEPSEN_INSIDE=");
        environment.contains(&mark).then_some(Found { pid, words, is_inside })
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(found).collect()
}

/// What there still is of a run, in words.
fn left_of(dir: &Path) -> Vec<String> {
    let mut left: Vec<String> = processes_of(dir).into_iter().map(|one| one.words).collect();
    let dir = dir.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(mounts.lines().filter(|line| line.contains(dir)).map(str::to_owned));
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(device.path().join("loop/backing_file"));
        left.extend(file.ok().filter(|file| file.contains(dir)));
    }
    for device in fs::read_dir("/sys/class/net").unwrap().flatten() {
        let name = device.file_name().to_string_lossy().into_owned();
        left.extend(Some(name).filter(|name| name.starts_with("quorate")));
    }
    left
}

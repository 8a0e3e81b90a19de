//! A cluster of the real binary, and the binary as its user.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use quorate::cli::{LocalCluster, LocalClusterOptions};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Longer than any election on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(90);
const RAFT: &str = "
[raft]
heartbeat_interval_ms = 50
election_timeout_min_ms = 300
election_timeout_max_ms = 600
";

/// Three nodes.
pub struct Cluster {
    pub local: LocalCluster,
    dir: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A command that runs.
pub struct Running {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// The binary, without what the tester's environment says.
pub fn quorate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).kill_on_drop(true);
    command
}

/// Runs a command to its end, with this as its standard input.
pub async fn run(mut command: Command, input: &str) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let written = async {
        // It may end without reading.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let (output, ()) = timeout(DEADLINE, async { tokio::join!(child.wait_with_output(), written) })
        .await
        .expect("the command ends");
    let output = output.unwrap();
    Ended {
        code: output.status.code().expect("no signal ended it"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Cluster {
    pub async fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let options = LocalClusterOptions {
            dir: Some(dir.path().to_owned()),
            groups: 4,
            quiet: true,
            settings: RAFT.to_owned(),
            program: Some(PathBuf::from(env!("CARGO_BIN_EXE_quorate"))),
            ..LocalClusterOptions::default()
        };
        let local = LocalCluster::start(options).await.unwrap();
        Cluster { local, dir }
    }

    /// A command that works on this cluster.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = quorate(arguments);
        command.env("QUORATE_ENDPOINTS", self.local.endpoints().join(","));
        // An election on a busy machine may take longer than people want to wait.
        command.args(["--timeout", "60s"]);
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Ended {
        run(self.command(arguments), "").await
    }

    /// Runs a command that succeeds, and returns what it wrote.
    pub async fn text(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments).await;
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        ended.stdout
    }

    /// Runs a command that succeeds, and returns its lines of JSON.
    pub async fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let arguments = [arguments, &["--output", "json"]].concat();
        json_lines(&self.text(&arguments).await)
    }

    /// Runs a command that succeeds, and returns its one line of JSON.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let mut lines = self.lines(arguments).await;
        assert_eq!(lines.len(), 1, "{arguments:?}: {lines:?}");
        lines.remove(0)
    }

    /// Starts a command that writes JSON, to be read while it runs. It can be given a standard input, too.
    pub fn begin(&self, arguments: &[&str]) -> Running {
        let arguments = [arguments, &["--output", "json"]].concat();
        let mut command = self.command(&arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    /// Where a node keeps its data.
    pub fn data_of(&self, node: u32) -> PathBuf {
        self.dir.path().join(node.to_string())
    }

    /// Stops all nodes in good order; their data stays until what is returned is dropped.
    pub async fn stop(self) -> tempfile::TempDir {
        self.local.stop().await.unwrap();
        self.dir
    }
}

impl Running {
    /// The next line.
    pub async fn next(&mut self) -> Value {
        let line = timeout(DEADLINE, self.lines.next_line()).await.expect("a line comes");
        serde_json::from_str(&line.unwrap().expect("it runs")).unwrap()
    }

    /// Reads no further, as `head` does.
    pub fn read_no_more(self) -> Child {
        self.child
    }
}

/// How a command ends by itself.
pub async fn exit_code(mut child: Child) -> i32 {
    let ended = timeout(DEADLINE, child.wait()).await.expect("the command ends").unwrap();
    ended.code().expect("no signal ended it")
}

pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The files in a folder whose names end so, the largest last.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    found.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    found
}

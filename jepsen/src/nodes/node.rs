use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::{ClusterOptions, Disk, Shim, configuration};
use crate::network::Network;
use crate::programs;

const PROBE_DEADLINE: Duration = Duration::from_secs(1);
const PROBE_BYTES_MAX: u64 = 64 * 1024;
const LOG_LINES_SHOWN: usize = 12;
/// How long a process may take to be gone after SIGKILL, or stopped after SIGSTOP.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Why a node does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyDown {
    /// It was never started.
    NotStarted,
    /// A nemesis ended it.
    Ended,
    /// It ended by itself, and how.
    ByItself(String),
}

/// One node: its files, its disk, and its process while it runs.
pub struct Node {
    /// From 1.
    pub id: u32,
    /// What its data lies on.
    pub disk: Disk,
    /// What is preloaded into it, if anything is.
    pub shim: Option<Shim>,
    binary: PathBuf,
    config_file: PathBuf,
    log_file: PathBuf,
    namespace: Option<PathBuf>,
    failpoints: Option<String>,
    child: Option<Child>,
    why_down: WhyDown,
    untold_ends: Vec<String>,
    /// How many keep it stopped.
    pauses: u32,
    memory_bytes_max: u64,
}

impl Node {
    pub(super) fn prepare(
        id: u32,
        dir: &Path,
        disk: Disk,
        shim: Option<Shim>,
        network: &Network,
        binary: &Path,
        options: &ClusterOptions,
    ) -> anyhow::Result<Node> {
        let config_file = dir.join(format!("{id}.toml"));
        let text = configuration::text(id, network.addresses(id), &disk.data(), options.flush_ms);
        std::fs::write(&config_file, text)?;
        Ok(Node {
            id,
            disk,
            shim,
            binary: binary.to_owned(),
            config_file,
            log_file: dir.join(format!("{id}.log")),
            namespace: network.namespace(id),
            failpoints: options.failpoints.clone(),
            child: None,
            why_down: WhyDown::NotStarted,
            untold_ends: Vec::new(),
            pauses: 0,
            memory_bytes_max: 0,
        })
    }

    /// Starts the process, unless it runs.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log_file)?;
        let mut command = match &self.namespace {
            None => Command::new(&self.binary),
            Some(namespace) => {
                let mut command = programs::command("nsenter");
                command.arg(format!("--net={}", namespace.display())).arg("--").arg(&self.binary);
                command
            }
        };
        command.arg("serve").arg("--config").arg(&self.config_file).arg("--stop-with-stdin");
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        command.process_group(0).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("QUORATE_") || name_text == "FAILPOINTS" {
                command.env_remove(name);
            }
        }
        command.env("RUST_BACKTRACE", "1");
        if let Some(shim) = &self.shim {
            command.envs(shim.environment());
        }
        if let Some(failpoints) = &self.failpoints {
            command.env("FAILPOINTS", failpoints);
        }
        let child = command.spawn().with_context(|| format!("cannot start node {}", self.id))?;
        self.child = Some(child);
        self.pauses = 0;
        Ok(())
    }

    /// Whether its process is there, paused or not. Notices one that has ended.
    pub fn is_running(&mut self) -> bool {
        let Some(child) = &mut self.child else { return false };
        match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                self.child = None;
                self.pauses = 0;
                let how = how(status);
                self.untold_ends.push(how.clone());
                self.why_down = WhyDown::ByItself(how);
                false
            }
            Err(_) => false,
        }
    }

    /// How it ended by itself, each time since this was asked last, also where it was started again meanwhile.
    pub fn take_ends(&mut self) -> Vec<String> {
        self.is_running();
        std::mem::take(&mut self.untold_ends)
    }

    /// Why it does not run.
    pub fn why_down(&self) -> &WhyDown {
        &self.why_down
    }

    /// The id of its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.with_context(|| format!("node {} does not run", self.id))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal node {}", self.id))
    }

    /// What its processes took of memory at most, in bytes, as far as it was looked at: before each is ended, and now.
    pub fn memory_bytes_max(&mut self) -> u64 {
        self.note_memory();
        self.memory_bytes_max
    }

    fn note_memory(&mut self) {
        let Some(pid) = self.pid() else { return };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
        let kib: u64 = peak.and_then(|kib| kib.trim().parse().ok()).unwrap_or(0);
        self.memory_bytes_max = self.memory_bytes_max.max(kib * 1024);
    }

    /// What `quorate check` finds wrong with what it has stored; none if that is as it should be. It must not run.
    ///
    /// # Errors
    ///
    /// If that cannot be told.
    pub async fn check(&self) -> anyhow::Result<Option<String>> {
        let data = self.disk.data();
        let mut command = Command::new(&self.binary);
        command.arg("check").arg("--data").arg(&data).kill_on_drop(true);
        let ended = command.output().await.context("`quorate check` cannot be run")?;
        let said = [ended.stdout, ended.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        match ended.status.code() {
            Some(0) => Ok(None),
            Some(1) => Ok(Some(said)),
            _ => bail!("`quorate check` of node {} ended with {}: {said}", self.id, ended.status),
        }
    }

    /// Ends it with SIGKILL and waits until it is gone. Whether it ran.
    ///
    /// # Errors
    ///
    /// If it is still there after a while.
    pub async fn kill(&mut self) -> anyhow::Result<bool> {
        if !self.is_running() {
            return Ok(false);
        }
        self.note_memory();
        let Some(mut child) = self.child.take() else { return Ok(false) };
        self.why_down = WhyDown::Ended;
        self.pauses = 0;
        child.start_kill()?;
        match timeout(SIGNAL_DEADLINE, child.wait()).await {
            Ok(Ok(status)) => {
                if status.signal() != Some(Signal::KILL.as_raw()) {
                    self.untold_ends.push(how(status));
                }
                Ok(true)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => bail!("node {} is still there after SIGKILL", self.id),
        }
    }

    /// Asks it to stop with SIGTERM and waits; kills it if it does not. How it ended.
    ///
    /// # Errors
    ///
    /// If it does not run, or cannot be ended.
    pub async fn terminate(&mut self, within: Duration) -> anyhow::Result<String> {
        ensure!(self.is_running(), "node {} does not run", self.id);
        self.note_memory();
        self.signal(Signal::TERM)?;
        let Some(child) = &mut self.child else { bail!("node {} does not run", self.id) };
        match timeout(within, child.wait()).await {
            Ok(status) => {
                let status = status?;
                self.child = None;
                self.why_down = WhyDown::Ended;
                if !status.success() {
                    self.untold_ends.push(how(status));
                }
                Ok(how(status))
            }
            Err(_) => {
                self.kill().await?;
                Ok(format!("did not stop in {} s and was killed", within.as_secs()))
            }
        }
    }

    /// Waits until it ends by itself. How it did; none if it still runs.
    pub async fn wait_for_end(&mut self, within: Duration) -> Option<String> {
        let deadline = Instant::now() + within;
        while self.is_running() {
            if Instant::now() >= deadline {
                return None;
            }
            sleep(POLL_INTERVAL * 10).await;
        }
        match &self.why_down {
            WhyDown::ByItself(how) => Some(how.clone()),
            _ => None,
        }
    }

    /// Stops it with SIGSTOP, and waits until the system says that it stands. It stands until everyone who has stopped it
    /// has let it run on, or it is ended.
    ///
    /// # Errors
    ///
    /// If it does not run, or does not stand after a while.
    pub async fn pause(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        self.pauses += 1;
        let deadline = Instant::now() + SIGNAL_DEADLINE;
        while self.state() != Some('T') {
            ensure!(self.is_running(), "node {} has ended", self.id);
            if Instant::now() >= deadline {
                self.resume();
                bail!("node {} does not stand after SIGSTOP", self.id);
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Lets it run on, if nobody else has stopped it.
    pub fn resume(&mut self) {
        self.pauses = self.pauses.saturating_sub(1);
        if self.pauses == 0 && self.is_running() {
            // It fails only for a process that has ended, and then there is nothing to resume.
            let _ = self.signal(Signal::CONT);
        }
    }

    /// What the system says the process does: R, S, D, T and so on.
    pub fn state(&self) -> Option<char> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?)).ok()?;
        text.rsplit_once(')')?.1.trim_start().chars().next()
    }

    /// Seconds of processor time that it has used, in hundredths.
    pub fn cpu_ticks(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?)).ok()?;
        let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(user + system)
    }

    /// The first panic in its log, of a process or of one task of it, with the line behind it.
    pub fn first_panic(&self) -> Option<String> {
        let log = BufReader::new(File::open(&self.log_file).ok()?);
        let mut lines = log.split(b'\n').map_while(Result::ok);
        let is_panic = |line: &Vec<u8>| {
            line.starts_with(b"thread '") && String::from_utf8_lossy(line).contains(" panicked at ")
        };
        let mut found = lines.find(is_panic)?;
        found.push(b' ');
        found.extend(lines.next().unwrap_or_default());
        Some(String::from_utf8_lossy(&found).into_owned())
    }

    /// How many lines of its log have these words.
    pub fn said(&self, words: &str) -> usize {
        let text = std::fs::read(&self.log_file).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter(|line| line.contains(words)).count()
    }

    /// The last lines of its log.
    pub fn end_of_log(&self) -> String {
        let text = std::fs::read(&self.log_file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("{}\n({})", shown.join("\n"), self.log_file.display())
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The status of one GET of a plain HTTP page.
pub(super) async fn probe(address: SocketAddr, path: &str) -> anyhow::Result<u16> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(PROBE_BYTES_MAX).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        status.context("the answer is not HTTP")
    };
    timeout(PROBE_DEADLINE, asked).await.context("no answer")?
}

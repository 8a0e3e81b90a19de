use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout_at};

use super::ports::{self, Ports};
use super::{LocalClusterOptions, POLL_INTERVAL, namespaces};
use crate::server::Config;

/// Lines of a node's log that an error carries.
const LOG_LINES_SHOWN: usize = 12;
/// Further keys of `[storage]` for several nodes on one machine.
const SMALL_STORAGE: &str = "\
block_cache_bytes = 67108864
log_memtable_bytes = 67108864
state_memtable_bytes = 67108864
";
/// An answer at most: a probe's is a few lines, a page of metrics has a few for each group.
const PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// One node: its files, and its process while it runs.
pub(super) struct Node {
    config: Config,
    config_file: PathBuf,
    log_file: PathBuf,
    program: PathBuf,
    /// Whether it has a network namespace of its own.
    namespace: bool,
    child: Option<Child>,
}

impl Node {
    /// Writes the configuration of the nodes 1 to `count`, or reads what an earlier start wrote: the addresses of a
    /// cluster that exists must not change.
    pub(super) fn prepare(dir: &Path, options: &LocalClusterOptions) -> anyhow::Result<Vec<Node>> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let count = options.nodes;
        let ports = ports::choose(count, options.standard_ports)?;
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("cannot find this program's file")?,
        };
        let mut nodes = Vec::new();
        for (id, ports) in (1..=count).zip(ports) {
            let config_file = dir.join(format!("{id}.toml"));
            if !config_file.exists() {
                let host = match options.namespaces {
                    true => namespaces::address(u8::try_from(id)?),
                    false => Ipv4Addr::LOCALHOST,
                };
                let mut text = configuration(id, host, ports, &dir.join(id.to_string()));
                if options.small {
                    text.push_str(SMALL_STORAGE);
                }
                text.push_str(&options.settings);
                std::fs::write(&config_file, text)
                    .with_context(|| format!("cannot write {}", config_file.display()))?;
            }
            nodes.push(Node {
                config: Config::load_with(Some(&config_file), [])?,
                log_file: dir.join(format!("{id}.log")),
                config_file,
                program: program.clone(),
                namespace: options.namespaces,
                child: None,
            });
        }
        Ok(nodes)
    }

    pub(super) fn id(&self) -> u32 {
        self.config.node_id.0
    }

    pub(super) fn client_address(&self) -> String {
        self.config.client.advertised()
    }

    pub(super) fn peer_address(&self) -> String {
        self.config.peer.advertised()
    }

    pub(super) fn http_address(&self) -> SocketAddr {
        self.config.http.listen
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Its number in a network of namespaces.
    pub(super) fn host(&self) -> anyhow::Result<u8> {
        anyhow::ensure!(self.namespace, "node {} has no network namespace", self.id());
        Ok(u8::try_from(self.id())?)
    }

    pub(super) async fn metrics(&self) -> anyhow::Result<String> {
        let (status, page) = get(self.http_address(), "/metrics").await?;
        anyhow::ensure!(status == 200, "node {} has no metrics: {status}", self.id());
        Ok(page)
    }

    /// Starts the process; its log is appended to the log file.
    pub(super) fn spawn(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("node {} runs already", self.id());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log_file)?;
        let mut command = match self.namespace {
            true => namespaces::within(self.host()?, self.program.clone().into()),
            false => Command::new(&self.program),
        };
        command.arg("serve").arg("--config").arg(&self.config_file).arg("--stop-with-stdin");
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: Ctrl-C in the terminal is for this process, which then stops its nodes in order.
        command.process_group(0).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        let child = command.spawn().with_context(|| format!("cannot start node {}", self.id()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the node answers a probe with 200.
    pub(super) async fn wait(&mut self, probe: &str, deadline: Instant) -> anyhow::Result<()> {
        loop {
            let answer = timeout_at(deadline, get(self.http_address(), probe)).await;
            let obstacle = match answer {
                Ok(Ok((200, _))) => return Ok(()),
                Ok(Ok((_, body))) => body,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                self.child = None;
                bail!("node {} ended ({status}):\n{}", self.id(), self.end_of_log());
            }
            if Instant::now() >= deadline {
                let obstacle = obstacle.trim_end().replace('\n', " ");
                let log = self.end_of_log();
                bail!("node {} is not ready in time: {obstacle}\n{log}", self.id());
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// SIGKILL, and the end of the process.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { bail!("node {} does not run", self.id()) };
        child.kill().await.with_context(|| format!("cannot kill node {}", self.id()))
    }

    /// Asks the process to stop, without waiting.
    pub(super) fn terminate(&self) {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            // It fails only for a process that has ended by itself, which the wait afterwards reports.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits for the process to end, and kills it at the deadline.
    pub(super) async fn wait_for_exit(&mut self, deadline: Instant) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        match timeout_at(deadline, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) if status.signal() == Some(Signal::KILL.as_raw()) => {
                bail!("somebody had killed it")
            }
            Ok(Ok(status)) => bail!("it failed ({status}):\n{}", self.end_of_log()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                child.kill().await?;
                bail!("it did not stop in time and was killed")
            }
        }
    }

    fn end_of_log(&self) -> String {
        let text = std::fs::read_to_string(&self.log_file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("{}\n({})", shown.join("\n"), self.log_file.display())
    }
}

/// No ballast, and little free space is enough: the data may live in memory. It ends inside `[storage]`.
fn configuration(id: u32, host: Ipv4Addr, ports: Ports, data: &Path) -> String {
    let Ports { client, peer, http } = ports;
    let data = toml::Value::String(data.display().to_string());
    let listener = |port: u16| {
        // Off loopback a node asks for certificates; addresses of namespaces are as much this machine's alone.
        let insecure = if host.is_loopback() { "" } else { "\ninsecure = true" };
        format!("listen = \"{host}:{port}\"{insecure}")
    };
    format!(
        "\
# Node {id} of a cluster that `quorate` started on this machine. cluster-configs/ explains every key.
node_id = {id}
data_dir = {data}

[client]
{}

[peer]
{}

[http]
{}

[storage]
disk_soft_free_bytes = 1073741824
disk_hard_free_bytes = 268435456
ballast_bytes = 0
",
        listener(client),
        listener(peer),
        listener(http)
    )
}

/// One GET of a plain HTTP page: status and body.
async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(PAGE_BYTES_MAX).read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((status.context("the answer is not HTTP")?, body.to_owned()))
}

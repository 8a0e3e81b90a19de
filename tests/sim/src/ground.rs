//! What a simulated node stands on: ports and connections of the simulated network, a clock that can be set wrong, and
//! disks (`disk.rs`) that fail, fill up, are lost, or meet the death of the process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use quorate::server::{Accepted, Listen, Listeners, Metrics, Observers};
use quorate::storage::small_file::MemoryFile;
use quorate::storage::{DataDir, Database, Engine, MemoryDir, MemoryDisk, Opened, Storage, View};
use quorate::types::{Clock, NodeId, Timestamp};
use quorate_client::Dial;
use quorate_client::dial::Duplex;
use tokio_util::sync::CancellationToken;

use crate::determinism;
use crate::disk::{DiskManners, SimEngine};
use crate::ledger::Ledger;

/// Ports of every node.
pub const CLIENT_PORT: u16 = 7101;
/// As above.
pub const PEER_PORT: u16 = 7201;
/// As above.
pub const HTTP_PORT: u16 = 7301;

/// Connects within the simulated network.
#[derive(Debug)]
pub struct SimDial;

impl Dial for SimDial {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }
}

struct SimListener(turmoil::net::TcpListener);

impl Listen for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async {
            let (stream, address) = self.0.accept().await?;
            Ok((Box::new(stream) as Box<dyn Duplex>, address))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Opens the ports of the simulated host that this runs on.
pub async fn listen() -> io::Result<Listeners> {
    async fn bind(port: u16) -> io::Result<Box<dyn Listen>> {
        let listener = turmoil::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        Ok(Box::new(SimListener(listener)))
    }
    Ok(Listeners {
        client: bind(CLIENT_PORT).await?,
        peer: bind(PEER_PORT).await?,
        http: bind(HTTP_PORT).await?,
    })
}

/// A process dies at one of so many changes of a disk, or of an installation, which takes about so many.
const CHANGES_UNTIL_DEATH: usize = 40;
/// As above.
const CHANGES_OF_INSTALL: usize = 7;

/// What of a node outlives its process.
#[derive(Clone)]
pub struct Machine {
    /// Which node.
    pub node: NodeId,
    data: Arc<Mutex<Data>>,
    /// How the disks behave, and what they were seen to do.
    pub disk: Arc<DiskManners>,
    /// What it has in common with the other nodes.
    ledger: Arc<Ledger>,
    skew_us: Arc<AtomicI64>,
    /// How often its clock was read while it was wrong.
    misreadings: Arc<AtomicU64>,
    /// What its last process counts.
    metrics: Arc<Mutex<Option<Arc<Metrics>>>>,
    /// How often its disks had crashed when it was decided that its process is to die midway.
    to_die: Arc<Mutex<Option<u64>>>,
    /// Whether it has died so, and was not opened since.
    is_half_done: Arc<AtomicBool>,
    /// Asks its last process to stop.
    stop: Arc<Mutex<CancellationToken>>,
}

/// What is on a node's disk.
#[derive(Clone)]
struct Data {
    dir: MemoryDir,
    watermark: MemoryFile,
    log: MemoryDisk,
    state: MemoryDisk,
}

impl Data {
    fn new() -> Self {
        Data {
            dir: MemoryDir::default(),
            watermark: MemoryFile::default(),
            log: MemoryDisk::new(Database::Log),
            state: MemoryDisk::new(Database::State),
        }
    }

    fn crashes(&self) -> u64 {
        self.log.crashes() + self.state.crashes()
    }
}

impl Machine {
    /// A new machine with empty disks.
    pub fn new(node: u64, seed: u64, ledger: Arc<Ledger>) -> Self {
        Machine {
            node: NodeId(node as u32),
            data: Arc::new(Mutex::new(Data::new())),
            disk: Arc::new(DiskManners::new(seed)),
            ledger,
            skew_us: Arc::default(),
            misreadings: Arc::default(),
            metrics: Arc::default(),
            to_die: Arc::default(),
            is_half_done: Arc::default(),
            stop: Arc::default(),
        }
    }

    /// What asks its new process to stop.
    pub fn new_stop_token(&self) -> CancellationToken {
        let mut stop = self.stop.lock().expect("no panic while locked");
        *stop = CancellationToken::new();
        stop.clone()
    }

    /// Asks its process to stop.
    pub fn ask_to_stop(&self) {
        self.stop.lock().expect("no panic while locked").cancel();
    }

    /// Its name in the network.
    pub fn name(&self) -> String {
        format!("n{}", self.node)
    }

    /// Opens the node's storage.
    ///
    /// # Errors
    /// As the product says of a data directory that cannot be used.
    pub fn open(&self, metrics: &Arc<Metrics>) -> anyhow::Result<Storage> {
        *self.metrics.lock().expect("no panic while locked") = Some(metrics.clone());
        let data = self.data();
        let dir = DataDir::open_in_memory(&data.dir, self.node)?;
        let engine = |disk: &MemoryDisk| {
            let (manners, ledger) = (self.disk.clone(), self.ledger.clone());
            Arc::new(SimEngine::open(self.node, disk, manners, ledger))
        };
        let (log, state) = (engine(&data.log), engine(&data.state));
        let opened = Opened::make_ready(dir, log, state, data.watermark)?;
        self.is_half_done.store(false, Ordering::Relaxed);
        Ok(opened.start(Arc::new(Observers(metrics.clone()))))
    }

    /// Replicas in a role, as it counted them last, which it does each second.
    pub fn replicas(&self, role: &str) -> u64 {
        self.counted(&format!("replicas{{role=\"{role}\"}}"))
    }

    /// Replicas that are parked, as above.
    pub fn parked(&self) -> u64 {
        self.counted("replicas_parked")
    }

    fn counted(&self, what: &str) -> u64 {
        let metrics = self.metrics.lock().expect("no panic while locked");
        let page = metrics.as_ref().map(|metrics| metrics.encode()).unwrap_or_default();
        let sample = format!("quorate_{what} ");
        let count = page.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok());
        count.unwrap_or_default()
    }

    /// Has its process die in the middle of what it changes: its log or its state, or its next installation of a snapshot.
    pub fn die_midway(&self, drawn: usize, in_install: bool) {
        let data = self.data();
        match (in_install, drawn.is_multiple_of(2)) {
            (true, _) => self.disk.set_dies_in_install(Some(drawn % CHANGES_OF_INSTALL)),
            (_, true) => data.log.crash_after(drawn % CHANGES_UNTIL_DEATH),
            (_, false) => data.state.crash_after(drawn % CHANGES_UNTIL_DEATH),
        }
        *self.to_die.lock().expect("no panic while locked") = Some(data.crashes());
    }

    /// Whether it has died so since this was asked last. What is left of it is to be killed.
    pub fn take_death_midway(&self) -> bool {
        let mut to_die = self.to_die.lock().expect("no panic while locked");
        let has_died = to_die.is_some_and(|before| self.data().crashes() > before);
        if has_died {
            *to_die = None;
            self.is_half_done.store(true, Ordering::Relaxed);
            self.disk.deaths_midway.fetch_add(1, Ordering::Relaxed);
        }
        has_died
    }

    /// Whether what it was changing may be half done: opening it completes that.
    pub fn is_half_done(&self) -> bool {
        self.is_half_done.load(Ordering::Relaxed)
    }

    /// How often it has died so.
    pub fn deaths_midway(&self) -> u64 {
        self.disk.deaths_midway.load(Ordering::Relaxed)
    }

    /// Its process has died, or its power was cut: what was not synced is gone. The two are the same here, since
    /// nothing that is not synced is read again after a death.
    pub fn lose_unsynced(&self) {
        let data = self.data();
        data.log.crash();
        data.state.crash();
        self.disk.set_dies_in_install(None);
        *self.to_die.lock().expect("no panic while locked") = None;
        self.disk.count_change();
    }

    /// Its disk was lost, and another one put in its place. Its process must not run.
    pub fn wipe(&self) {
        *self.data.lock().expect("no panic while locked") = Data::new();
        self.disk.count_change();
    }

    fn data(&self) -> Data {
        self.data.lock().expect("no panic while locked").clone()
    }

    /// Makes its disks fail what reads them, or read again.
    pub fn set_unreadable(&self, reason: Option<&str>) {
        let data = self.data();
        data.log.set_unreadable(reason);
        data.state.set_unreadable(reason);
    }

    /// Makes its disks fail what changes them, or work again.
    pub fn set_failing(&self, reason: Option<&str>) {
        let data = self.data();
        data.log.set_failing(reason);
        data.state.set_failing(reason);
        data.watermark.set_failing(reason.is_some());
    }

    /// Sets how much room its disk has left.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.data().dir.free_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether its process has seen that its disk has not much room left.
    pub fn knows_of_little_room(&self) -> bool {
        let free = self.data().dir.free_bytes.load(Ordering::Relaxed);
        free < u64::MAX && self.counted("disk_free_bytes") == free
    }

    /// Sets how long the slowest operation of its disk takes; none for as usual.
    pub fn set_slowest(&self, slowest: Option<Duration>) {
        self.disk.set_slowest(slowest);
    }

    /// Sets its wall clock wrong by so much.
    pub fn set_skew_us(&self, skew_us: i64) {
        self.skew_us.store(skew_us, Ordering::Relaxed);
    }

    /// Its clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        let (skew_us, misreadings) = (self.skew_us.clone(), self.misreadings.clone());
        Arc::new(SimClock { skew_us, misreadings })
    }

    /// How often its wall clock was read while it was wrong.
    pub fn misreadings(&self) -> u64 {
        self.misreadings.load(Ordering::Relaxed)
    }

    /// How often the applied state has changed.
    pub fn changes(&self) -> u64 {
        self.disk.changes.load(Ordering::Relaxed)
    }

    /// The applied state as it is now, synced or not, and whether its disk can be read or not.
    pub fn state(&self) -> Arc<dyn View> {
        self.data().state.open().pin()
    }
}

struct SimClock {
    skew_us: Arc<AtomicI64>,
    misreadings: Arc<AtomicU64>,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let skew = self.skew_us.load(Ordering::Relaxed);
        self.misreadings.fetch_add(u64::from(skew != 0), Ordering::Relaxed);
        Timestamp(determinism::wall_clock_us().saturating_add_signed(skew))
    }

    fn elapsed_us(&self) -> u64 {
        determinism::elapsed().as_micros() as u64
    }
}

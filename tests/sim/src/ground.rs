//! What a simulated node stands on: ports and connections of the simulated network, a clock that can be set wrong, and
//! disks that take time, fail, fill up and lose what was not synced.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate::server::{Accepted, Listen, Listeners, Metrics, Observers};
use quorate::storage::small_file::MemoryFile;
use quorate::storage::{
    Batch, DataDir, Database, Direction, Durability, Engine, KeyRange, MemoryDir, MemoryDisk,
    MemoryEngine, Op, Opened, Rows, Staging, Storage, StorageError, Table, View,
};
use quorate::types::{Clock, NodeId, Timestamp};
use quorate_client::Dial;
use quorate_client::dial::Duplex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::determinism;
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
}

/// How slow a node's disk is, and what it did.
pub struct DiskManners {
    randomness: Mutex<SmallRng>,
    /// The longest that one operation takes, in microseconds.
    slowest_us: AtomicU64,
    /// Operations that took longer than they usually may.
    pub slowed: AtomicU64,
    /// Logs cut short because their end was not what the leader has.
    pub truncations: AtomicU64,
    /// Snapshots brought in.
    pub installs: AtomicU64,
    /// Changes of the applied state.
    changes: AtomicU64,
}

const USUAL_DISK_US: u64 = 2_000;

impl DiskManners {
    fn latency(&self) -> Duration {
        let slowest = self.slowest_us.load(Ordering::Relaxed);
        let mut randomness = self.randomness.lock().expect("no panic while locked");
        let latency_us = randomness.random_range(50..=slowest.max(100));
        self.slowed.fetch_add(u64::from(latency_us > USUAL_DISK_US), Ordering::Relaxed);
        Duration::from_micros(latency_us)
    }

    fn count_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn coin(&self) -> bool {
        self.randomness.lock().expect("no panic while locked").random()
    }
}

impl Machine {
    /// A new machine with empty disks.
    pub fn new(node: u64, seed: u64, ledger: Arc<Ledger>) -> Self {
        let randomness = Mutex::new(SmallRng::seed_from_u64(seed));
        Machine {
            node: NodeId(node as u32),
            data: Arc::new(Mutex::new(Data::new())),
            disk: Arc::new(DiskManners {
                randomness,
                slowest_us: AtomicU64::new(USUAL_DISK_US),
                slowed: AtomicU64::new(0),
                truncations: AtomicU64::new(0),
                installs: AtomicU64::new(0),
                changes: AtomicU64::new(0),
            }),
            ledger,
            skew_us: Arc::default(),
            misreadings: Arc::default(),
            metrics: Arc::default(),
        }
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
            Arc::new(SimEngine {
                node: self.node,
                inner: disk.open(),
                manners: self.disk.clone(),
                ledger: self.ledger.clone(),
            })
        };
        let (log, state) = (engine(&data.log), engine(&data.state));
        let opened = Opened::make_ready(dir, log, state, data.watermark)?;
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

    /// Its process has died, or its power was cut: what was not synced is gone. The two are the same here, since
    /// nothing that is not synced is read again after a death.
    pub fn lose_unsynced(&self) {
        let data = self.data();
        data.log.crash();
        data.state.crash();
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
        let slowest_us = slowest.map_or(USUAL_DISK_US, |slowest| slowest.as_micros() as u64);
        self.disk.slowest_us.store(slowest_us, Ordering::Relaxed);
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

/// Whether a change cuts a log short: it removes a group's entries from an index above 0 on, up to the next group.
fn is_cut(op: &Op) -> bool {
    const GROUP_BYTES: usize = 8;
    let Op::DeleteRange(Table::RaftLog, range) = op else { return false };
    let to_the_end = range.end.as_ref().is_none_or(|end| end.len() == GROUP_BYTES);
    to_the_end && range.start[GROUP_BYTES..].iter().any(|byte| *byte > 0)
}

/// A database in memory whose operations take time.
struct SimEngine {
    node: NodeId,
    inner: MemoryEngine,
    manners: Arc<DiskManners>,
    ledger: Arc<Ledger>,
}

impl View for SimEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.inner.get(table, key)
    }

    fn note_damage(&self, error: &StorageError) {
        self.inner.note_damage(error);
    }

    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_> {
        self.inner.scan(table, range, direction)
    }
}

impl Engine for SimEngine {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        self.ledger.take(self.node, &batch);
        if batch.ops.iter().any(|op| Table::STATE.contains(&op.table())) {
            self.manners.count_change();
        }
        self.inner.write(batch, durability)
    }

    /// A write that a power cut meets halfway is torn, and opening the log drops it, whichever of its pages are missing
    /// (`storage/log_format.rs`). So it is there or it is not, and which of the two is drawn.
    fn write_synced(&self, batch: Batch) -> BoxFuture<'_, Result<(), StorageError>> {
        let cuts = batch.ops.iter().filter(|op| is_cut(op)).count();
        self.manners.truncations.fetch_add(cuts as u64, Ordering::Relaxed);
        self.ledger.leaders.take(self.node, &batch);
        let (latency, arrives_early) = (self.manners.latency(), self.manners.coin());
        Box::pin(async move {
            if arrives_early {
                let written = self.inner.write(batch, Durability::Synced);
                tokio::time::sleep(latency).await;
                return written;
            }
            tokio::time::sleep(latency).await;
            self.inner.write(batch, Durability::Synced)
        })
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.inner.flush()
    }

    fn pin(&self) -> Arc<dyn View> {
        self.inner.pin()
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Staging>, StorageError> {
        self.inner.stage(name)
    }

    fn bring_in(&self, name: &str, clear: &[(Table, KeyRange)]) -> Result<(), StorageError> {
        self.manners.installs.fetch_add(1, Ordering::Relaxed);
        self.manners.count_change();
        self.inner.bring_in(name, clear)
    }

    fn unstage(&self, name: &str) -> Result<(), StorageError> {
        self.inner.unstage(name)
    }

    fn staged(&self) -> Result<Vec<String>, StorageError> {
        self.inner.staged()
    }

    /// Jobs overtake each other, as on a pool of threads.
    fn offload(&self, job: Box<dyn FnOnce() + Send>) {
        let latency = self.manners.latency();
        tokio::spawn(async move {
            tokio::time::sleep(latency).await;
            job();
        });
    }

    fn host(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.inner.host(name, task);
    }

    fn hold_compactions(&self, hold: bool) -> Result<(), StorageError> {
        self.inner.hold_compactions(hold)
    }

    fn note_failure(&self, error: &StorageError) {
        self.inner.note_failure(error);
    }

    fn background_error(&self) -> Option<StorageError> {
        self.inner.background_error()
    }
}

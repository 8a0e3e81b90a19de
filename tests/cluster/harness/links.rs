//! Links between nodes that a test can break, without root: each node advertises, as its peer address, a port of ours,
//! and what arrives there is carried to the node's real peer port. Who opened a connection is told by the operating
//! system, so that what is lost can be chosen by pair of nodes and by direction.
//!
//! A connection carries both directions of its pair, whoever opened it: what node 2 sends to node 1 are its requests
//! on the connections that it opened and its answers on those that node 1 opened. All of it is lost together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use procfs::process::{FDTarget, all_processes};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::NODES;
use super::wires::carry;

/// From one node to another.
pub type Direction = (u32, u32);

/// What becomes of bytes on a broken link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// They wait, as in the sender's buffers, and pile up there.
    Held,
    /// They vanish; the sender does not notice.
    Swallowed,
}

/// What becomes of the connections once the link is whole again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heal {
    /// They go on, and what was held arrives late.
    Late,
    /// They break, and what was held is lost.
    Cut,
}

/// The state of all links.
#[derive(Clone, Default)]
pub(super) struct Weather {
    pub broken: BTreeMap<Direction, Loss>,
    /// Counts how often the connections of a pair were cut, by the lower and the higher node.
    pub cuts: BTreeMap<Direction, u64>,
}

impl Weather {
    pub fn cuts_of(&self, one: u32, other: u32) -> u64 {
        self.cuts.get(&pair(one, other)).copied().unwrap_or_default()
    }
}

/// How much was hit, by direction: reads of lost bytes, or connections that had bytes to hold.
pub(super) type Hits = BTreeMap<Direction, AtomicU64>;

/// The links of a cluster. Dropping it breaks them all.
pub struct Links {
    weather: watch::Sender<Weather>,
    hits: Arc<Hits>,
    _fronts: JoinSet<()>,
}

impl Links {
    /// Chooses all ports of three nodes, writes their configuration into `dir`, and listens in front of them.
    pub async fn lay(dir: &Path) -> Links {
        let dir = dir.canonicalize().unwrap();
        let weather = watch::Sender::new(Weather::default());
        let hits: Hits = directions().map(|direction| (direction, AtomicU64::new(0))).collect();
        let hits = Arc::new(hits);
        let mut fronts = JoinSet::new();
        // All are held until the last is chosen, so that none is chosen twice.
        let mut held = Vec::new();
        for node in NODES {
            let listener = free_port().await;
            let advertised = listener.local_addr().unwrap();
            let mut ports = Vec::new();
            for _ in 0..3 {
                let port = free_port().await;
                ports.push(port.local_addr().unwrap());
                held.push(port);
            }
            let text = configuration(&dir, node, &ports, advertised);
            std::fs::write(dir.join(format!("{node}.toml")), text).unwrap();
            let (weather, hits) = (weather.subscribe(), hits.clone());
            let front = Front { dir: dir.clone(), node, peer: ports[1], weather, hits };
            fronts.spawn(front.run(listener));
        }
        Links { weather, hits, _fronts: fronts }
    }

    /// Breaks these directions and counts what is hit anew.
    pub fn lose(&self, directions: &[Direction], loss: Loss) {
        for direction in directions {
            self.hits[direction].store(0, Ordering::Relaxed);
        }
        self.weather.send_modify(|weather| {
            weather.broken.extend(directions.iter().map(|direction| (*direction, loss)));
        });
    }

    /// Makes all links whole again. What was swallowed leaves a hole in its connection, so it has to be cut.
    pub fn heal(&self, heal: Heal) {
        self.weather.send_modify(|weather| {
            let broken = std::mem::take(&mut weather.broken);
            let holed = broken.values().any(|loss| *loss == Loss::Swallowed);
            assert!(heal == Heal::Cut || !holed, "a stream with a hole cannot go on");
            if heal == Heal::Cut {
                let pairs: BTreeSet<_> = broken.keys().map(|(from, to)| pair(*from, *to)).collect();
                pairs.into_iter().for_each(|pair| *weather.cuts.entry(pair).or_default() += 1);
            }
        });
    }

    /// Whether something was lost in this direction since it was broken last.
    pub fn was_hit(&self, direction: Direction) -> bool {
        self.hits[&direction].load(Ordering::Relaxed) > 0
    }
}

/// What stands in front of one node's peer port.
struct Front {
    dir: PathBuf,
    node: u32,
    peer: SocketAddr,
    weather: watch::Receiver<Weather>,
    hits: Arc<Hits>,
}

impl Front {
    async fn run(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let (inbound, address) = listener.accept().await.unwrap();
            let local = inbound.local_addr().unwrap();
            let opener = tokio::task::block_in_place(|| opener(&self.dir, address, local));
            // A process that has died or given the connection up meanwhile.
            let Some(opener) = opener else { continue };
            let (weather, hits) = (self.weather.clone(), self.hits.clone());
            connections.spawn(carry(inbound, self.peer, (opener, self.node), weather, hits));
            while connections.try_join_next().is_some() {}
        }
    }
}

/// The node whose process holds the other end of a connection.
fn opener(dir: &Path, address: SocketAddr, local: SocketAddr) -> Option<u32> {
    let mut sockets = procfs::net::tcp().unwrap().into_iter();
    let ends =
        |s: &procfs::net::TcpNetEntry| s.local_address == address && s.remote_address == local;
    let inode = sockets.find(ends)?.inode;
    let own = std::process::id() as i32;
    let children = all_processes().unwrap().filter_map(Result::ok);
    let mut children = children.filter(|process| process.stat().is_ok_and(|stat| stat.ppid == own));
    let holder = children.find(|process| {
        let mut files = process.fd().into_iter().flatten().filter_map(Result::ok);
        files.any(|file| matches!(file.target, FDTarget::Socket(socket) if socket == inode))
    })?;
    let arguments = holder.cmdline().ok()?;
    let config = |node: &u32| dir.join(format!("{node}.toml")).display().to_string();
    NODES.into_iter().find(|node| arguments.contains(&config(node)))
}

fn directions() -> impl Iterator<Item = Direction> {
    NODES.into_iter().flat_map(|from| NODES.into_iter().map(move |to| (from, to)))
}

fn pair(one: u32, other: u32) -> Direction {
    (one.min(other), one.max(other))
}

async fn free_port() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

/// As a local cluster would write it, but for the address that peers are told.
fn configuration(dir: &Path, node: u32, ports: &[SocketAddr], advertised: SocketAddr) -> String {
    let data = toml::Value::String(dir.join(node.to_string()).display().to_string());
    let [client, peer, http] = ports else { panic!("three ports: {ports:?}") };
    format!(
        "\
node_id = {node}
data_dir = {data}

[client]
listen = \"{client}\"

[peer]
listen = \"{peer}\"
advertise = \"{advertised}\"

[http]
listen = \"{http}\"

[storage]
disk_soft_free_bytes = 1073741824
disk_hard_free_bytes = 268435456
ballast_bytes = 0
block_cache_bytes = 67108864
log_memtable_bytes = 67108864
state_memtable_bytes = 67108864
"
    )
}

//! A switch in user space. Every node's network namespace has one device, whose other end is here; so have the
//! clients. What passes between two places passes through this, and nothing else connects them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_tun::Tun;

use super::link::{Counts, Direction, Fate, Link, Links, Place};
use super::packet;

/// Longest packet that a device hands over.
const PACKET_BYTES_MAX: usize = 65_536;
/// Packets held back at one time; more are dropped, as in any switch.
const HELD_MAX: usize = 65_536;

/// The switch. Dropping it ends it, and with it every connection.
pub struct Switch {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    ports: BTreeMap<Place, Arc<Tun>>,
    places: BTreeMap<Ipv4Addr, Place>,
    links: Mutex<Links>,
    held: Mutex<BinaryHeap<Reverse<Held>>>,
    sooner: Notify,
}

/// A packet on its way. Those due at one instant go in the order in which they came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    number: u64,
    to: Place,
    packet: Vec<u8>,
}

/// A device that belongs to one place.
pub(super) struct Port {
    pub place: Place,
    pub address: Ipv4Addr,
    pub device: Tun,
}

/// Makes a device in the network namespace of this process.
pub(super) fn device(name: &str) -> anyhow::Result<Tun> {
    let built = Tun::builder().name(name).build().map_err(|e| anyhow::anyhow!("{e}"));
    let made = built.with_context(|| format!("cannot make the network device {name}"))?;
    made.into_iter().next().context("no network device was made")
}

impl Switch {
    pub(super) fn start(ports: Vec<Port>, seed: u64) -> Switch {
        let places = ports.iter().map(|port| (port.address, port.place)).collect();
        let ports: BTreeMap<_, _> =
            ports.into_iter().map(|port| (port.place, Arc::new(port.device))).collect();
        let shared = Arc::new(Shared {
            places,
            links: Mutex::new(Links::new(seed)),
            held: Mutex::default(),
            sooner: Notify::new(),
            ports,
        });
        let mut tasks = JoinSet::new();
        for (place, device) in &shared.ports {
            tasks.spawn(shared.clone().carry(*place, device.clone()));
        }
        tasks.spawn(shared.clone().release());
        Switch { shared, _tasks: tasks }
    }

    /// Changes one direction between two places.
    pub fn set(&self, from: Place, to: Place, change: impl FnOnce(&mut Link)) {
        lock(&self.shared.links).set(from, to, change);
    }

    /// Makes every link sound.
    pub fn mend_all(&self) {
        lock(&self.shared.links).mend_all();
    }

    /// What became of packets in these directions, from the beginning on.
    pub fn counts(&self, of: &[Direction]) -> Counts {
        lock(&self.shared.links).counts(of)
    }
}

impl Shared {
    /// Takes what one place sends, until its device is gone.
    async fn carry(self: Arc<Self>, from: Place, device: Arc<Tun>) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        // Counts what was held back, of what this place sends.
        let mut number = 0;
        while let Ok(length) = device.recv(&mut buffer).await {
            let packet = &buffer[..length];
            // What goes to nobody here, such as IPv6's greetings, is not ours.
            let Some((_, destination)) = packet::addresses(packet) else { continue };
            let Some(to) = self.places.get(&destination).copied() else { continue };
            let fate = lock(&self.links).fate(from, to);
            match fate {
                Fate::Drop => {}
                Fate::Pass => self.hand_over(to, packet).await,
                Fate::Reset => {
                    if let Some(reset) = packet::reset_for(packet) {
                        self.hand_over(from, &reset).await;
                    }
                }
                Fate::Hold(time) => self.hold(to, packet, time, &mut number),
                Fate::Twice(first, again) => {
                    match first.is_zero() {
                        true => self.hand_over(to, packet).await,
                        false => self.hold(to, packet, first, &mut number),
                    }
                    self.hold(to, packet, again, &mut number);
                }
            }
        }
    }

    /// Keeps a packet until it is due.
    fn hold(&self, to: Place, packet: &[u8], time: Duration, number: &mut u64) {
        *number += 1;
        let due = Instant::now() + time;
        let held = Held { due, number: *number, to, packet: packet.to_vec() };
        let mut all = lock(&self.held);
        if all.len() < HELD_MAX {
            all.push(Reverse(held));
            self.sooner.notify_one();
        }
    }

    /// Hands over what was held back, each when it is due.
    async fn release(self: Arc<Self>) {
        loop {
            let next = lock(&self.held).peek().map(|held| held.0.due);
            match next {
                None => self.sooner.notified().await,
                Some(due) if due > Instant::now() => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.sooner.notified() => {}
                },
                Some(_) => {
                    let held = lock(&self.held).pop();
                    if let Some(Reverse(held)) = held {
                        self.hand_over(held.to, &held.packet).await;
                    }
                }
            }
        }
    }

    async fn hand_over(&self, to: Place, packet: &[u8]) {
        if let Some(device) = self.ports.get(&to) {
            // A device that takes nothing is one that is going down: its place is as good as cut off.
            let _ = device.send(packet).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

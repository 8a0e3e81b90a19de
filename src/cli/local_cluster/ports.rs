use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Mutex;

use anyhow::bail;

/// Below the ports that operating systems give to connections: while a node is down nobody gets one of its own.
const BELOW_EPHEMERAL: RangeInclusive<u16> = 10_000..=32_000;
const TRIES: u32 = 1_000;

/// Those that are a node's of this process, whether it is up or down.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// The three ports of a node on loopback.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) peer: u16,
    pub(super) http: u16,
}

/// Ports for the nodes 1 to `nodes`: the standard ones if asked for and all free, otherwise any free ones.
///
/// They are free when this returns; should somebody take one before the node does, the node says so and exits.
pub(super) fn choose(nodes: u32, standard: bool) -> anyhow::Result<Vec<Ports>> {
    let standard_ports = |node: u32| {
        let port = |base: u32| u16::try_from(base + node).ok();
        Some(Ports { client: port(7100)?, peer: port(7200)?, http: port(7300)? })
    };
    let chosen: Option<Vec<Ports>> = (1..=nodes).map(standard_ports).collect();
    match chosen {
        Some(chosen) if standard && chosen.iter().all(Ports::are_free) => Ok(chosen),
        _ => any(nodes),
    }
}

impl Ports {
    fn are_free(&self) -> bool {
        [self.client, self.peer, self.http].into_iter().all(|port| listen(port).is_ok())
    }
}

fn any(nodes: u32) -> anyhow::Result<Vec<Ports>> {
    let mut given = GIVEN.lock().expect("no panic while locked");
    let mut free = || -> anyhow::Result<u16> {
        for _ in 0..TRIES {
            let port = rand::random_range(BELOW_EPHEMERAL);
            if !given.contains(&port) && listen(port).is_ok() {
                given.insert(port);
                return Ok(port);
            }
        }
        bail!("no free port was found on loopback among {BELOW_EPHEMERAL:?}")
    };
    (0..nodes).map(|_| Ok(Ports { client: free()?, peer: free()?, http: free()? })).collect()
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_chosen_twice() {
        // Two clusters: the ports of the first are not in use, as those of a node that is down.
        let chosen = [choose(5, false).unwrap(), choose(5, false).unwrap()].concat();
        let ports: BTreeSet<u16> = chosen.iter().flat_map(|p| [p.client, p.peer, p.http]).collect();
        assert_eq!(ports.len(), 30);
    }

    #[test]
    fn a_taken_standard_port_is_avoided() {
        let chosen = choose(3, true).unwrap();
        let _taken = listen(chosen[1].peer).unwrap();
        let again = choose(3, true).unwrap();
        assert!(again.iter().all(|ports| ports.peer != chosen[1].peer), "{again:?}");
    }
}

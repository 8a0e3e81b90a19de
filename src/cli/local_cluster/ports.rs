use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;

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
    // All are held until the last is chosen, so that none is chosen twice.
    let mut held = Vec::new();
    let mut free = || -> anyhow::Result<u16> {
        let listener = listen(0).context("there is no free port on loopback")?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    (0..nodes).map(|_| Ok(Ports { client: free()?, peer: free()?, http: free()? })).collect()
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_chosen_twice() {
        let chosen = choose(5, false).unwrap();
        let ports: BTreeSet<u16> = chosen.iter().flat_map(|p| [p.client, p.peer, p.http]).collect();
        assert_eq!(ports.len(), 15);
    }

    #[test]
    fn a_taken_standard_port_is_avoided() {
        let chosen = choose(3, true).unwrap();
        let _taken = listen(chosen[1].peer).unwrap();
        let again = choose(3, true).unwrap();
        assert!(again.iter().all(|ports| ports.peer != chosen[1].peer), "{again:?}");
    }
}

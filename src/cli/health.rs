//! What is wrong with a cluster, and what to type next: pure, from one DescribeCluster.

use std::collections::{BTreeMap, BTreeSet};

use quorate_client::proto::{DescribeClusterResponse, NodeStatus, ReplicaStatus, Topology};

use crate::service::cluster::{FIRST, META_VOTERS_MAX};

/// A replica this many entries behind its group's log is behind, not merely busy.
const LAG_ENTRIES_MAX: u64 = 10_000;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// What, in a sentence for people.
    pub(super) what: String,
    /// The command or action that comes next.
    pub(super) next: String,
}

/// Everything that is wrong, the worst first; nothing if the cluster is healthy.
pub(super) fn diagnose(cluster: &DescribeClusterResponse) -> Vec<Problem> {
    let Some(topology) = cluster.topology.as_ref().filter(|t| !t.cluster_id.is_empty()) else {
        return vec![not_initialized()];
    };
    let mut problems = Vec::new();
    problems.extend(unreachable(topology, cluster));
    problems.extend(troubled(cluster));
    problems.extend(unsound(topology, cluster));
    problems.extend(leaderless(topology, cluster));
    problems.extend(full_disks(cluster));
    problems.extend(lagging(cluster));
    problems
}

/// The problem of a node that belongs to no cluster.
pub(super) fn not_initialized() -> Problem {
    Problem {
        what: "the node belongs to no cluster".to_owned(),
        next: "quorate init --node 1=HOST:PORT … (once, with the peer addresses of all nodes)"
            .into(),
    }
}

/// How many entries a group's replicas have that the slowest of them has not applied, by group. Replicas of nodes
/// that did not answer do not count.
pub(super) fn lag_by_group(cluster: &DescribeClusterResponse) -> BTreeMap<u64, u64> {
    let mut groups: BTreeMap<u64, Vec<&ReplicaStatus>> = BTreeMap::new();
    for (_, replica) in replicas(cluster) {
        groups.entry(replica.group_id).or_default().push(replica);
    }
    let lag = |replicas: Vec<&ReplicaStatus>| {
        let last = replicas.iter().map(|r| r.last_index).max().unwrap_or(0);
        let applied = replicas.iter().map(|r| r.applied_index).min().unwrap_or(0);
        last.saturating_sub(applied)
    };
    groups.into_iter().map(|(group, replicas)| (group, lag(replicas))).collect()
}

fn replicas(
    cluster: &DescribeClusterResponse,
) -> impl Iterator<Item = (&NodeStatus, &ReplicaStatus)> {
    let reachable = cluster.nodes.iter().filter(|node| node.reachable);
    reachable.flat_map(|node| node.replicas.iter().map(move |replica| (node, replica)))
}

fn unreachable(topology: &Topology, cluster: &DescribeClusterResponse) -> Vec<Problem> {
    let answered: BTreeSet<u64> =
        cluster.nodes.iter().filter(|node| node.reachable).map(|node| node.node_id).collect();
    let silent = topology.nodes.iter().filter(|node| !answered.contains(&node.node_id));
    let reason = |id: u64| {
        let status = cluster.nodes.iter().find(|status| status.node_id == id);
        let problems = status.map(|status| status.problems.join("; ")).unwrap_or_default();
        if problems.is_empty() { problems } else { format!(": {problems}") }
    };
    silent
        .map(|node| Problem {
            what: format!(
                "node {} ({}) does not answer{}",
                node.node_id,
                node.peer_address,
                reason(node.node_id)
            ),
            next: format!(
                "start node {id}: quorate serve --config FILE; if it cannot rely on its data, start it with an \
                 empty data directory, then quorate node replace {id}",
                id = node.node_id
            ),
        })
        .collect()
}

/// What nodes that answer say of themselves.
fn troubled(cluster: &DescribeClusterResponse) -> Vec<Problem> {
    let answered = cluster.nodes.iter().filter(|node| node.reachable);
    let said = answered.flat_map(|node| node.problems.iter().map(move |problem| (node, problem)));
    said.map(|(node, problem)| Problem {
        what: format!("node {}: {problem}", node.node_id),
        next: "see that both nodes have data and peer addresses of the same cluster".to_owned(),
    })
    .collect()
}

/// Nodes whose replicas are not what the topology wants there; one problem each, because one command mends them all.
fn unsound(topology: &Topology, cluster: &DescribeClusterResponse) -> Vec<Problem> {
    let answered = cluster.nodes.iter().filter(|node| node.reachable);
    answered
        .filter_map(|node| not_serving(topology, node).or_else(|| half_replaced(topology, node)))
        .collect()
}

/// Replicas that are damaged, stopped or missing.
fn not_serving(topology: &Topology, node: &NodeStatus) -> Option<Problem> {
    let bad = |replica: &&ReplicaStatus| {
        matches!(replica.role.as_str(), "damaged" | "missing" | "stopped")
    };
    let present: BTreeSet<u64> = node.replicas.iter().map(|r| r.group_id).collect();
    let absent = wanted(topology, node.node_id).filter(|one| !present.contains(&one.group_id));
    let said = node.replicas.iter().filter(bad).map(|replica| {
        let group = group_name(replica.group_id);
        match replica.problem.as_str() {
            "" => format!("{group} is {}", replica.role),
            problem => format!("{group} is {}: {problem}", replica.role),
        }
    });
    let missing = absent.map(|one| format!("{} is missing", group_name(one.group_id)));
    let reasons = first_of(&said.chain(missing).collect::<Vec<_>>())?;
    Some(Problem {
        what: format!("node {} has replicas that do not serve: {reasons}", node.node_id),
        next: format!("quorate node replace {}", node.node_id),
    })
}

/// Replicas that a replacement has not come to yet, or has left on the way. Whether it still runs cannot be seen.
fn half_replaced(topology: &Topology, node: &NodeStatus) -> Option<Problem> {
    let reason = |one: Wanted| {
        let standing = node.replicas.iter().find(|r| r.group_id == one.group_id)?;
        let group = group_name(one.group_id);
        // A newer one than is wanted is no problem: who answered has not heard of it yet.
        if standing.incarnation < one.incarnation {
            return Some(format!("its old replica of {group} stands where a new one is to be"));
        }
        // The first ones are voters from the beginning, and learners only until they hear of it.
        let is_made_anew = one.incarnation > FIRST.0;
        (standing.role == "learner" && one.is_voter && is_made_anew)
            .then(|| format!("its new replica of {group} is still a learner"))
    };
    let reasons = first_of(&wanted(topology, node.node_id).filter_map(reason).collect::<Vec<_>>())?;
    let id = node.node_id;
    Some(Problem {
        what: format!("node {id} is being replaced, or was left half replaced: {reasons}"),
        next: format!(
            "quorate node replace {id} (it takes up what was cut off; if it runs in another terminal, wait for that)"
        ),
    })
}

/// A replica that the topology wants on a node.
struct Wanted {
    group_id: u64,
    incarnation: u32,
    /// Whether it is to be a voter once it has caught up.
    is_voter: bool,
}

fn wanted(topology: &Topology, node_id: u64) -> impl Iterator<Item = Wanted> {
    let numbered = topology.nodes.iter().enumerate();
    let meta = numbered.filter(move |(_, node)| node.node_id == node_id).map(|(at, node)| Wanted {
        group_id: 0,
        incarnation: node.meta_incarnation,
        is_voter: at < META_VOTERS_MAX,
    });
    let active = topology.groups.iter().filter(|group| group.active);
    let placed = active.flat_map(move |group| {
        let here = group.replicas.iter().filter(move |replica| replica.node_id == node_id);
        here.map(|replica| Wanted {
            group_id: group.group_id,
            incarnation: replica.incarnation,
            is_voter: true,
        })
    });
    meta.chain(placed)
}

fn group_name(group_id: u64) -> String {
    match group_id {
        0 => "the meta group".to_owned(),
        group => format!("group {group}"),
    }
}

/// The first reason, and how many more there are; none if there is none.
fn first_of(reasons: &[String]) -> Option<String> {
    let first = reasons.first()?;
    Some(match reasons.len() {
        1 => first.clone(),
        count => format!("{first} (and {} more)", count - 1),
    })
}

fn leaderless(topology: &Topology, cluster: &DescribeClusterResponse) -> Vec<Problem> {
    let mut leaders: BTreeSet<u64> = replicas(cluster)
        .filter(|(_, replica)| replica.role == "leader")
        .map(|(_, replica)| replica.group_id)
        .collect();
    leaders.extend(topology.groups.iter().filter(|g| g.leader_node_id != 0).map(|g| g.group_id));
    let mut without = Vec::new();
    if topology.meta_leader_node_id == 0 && !leaders.contains(&0) {
        without.push("the meta group".to_owned());
    }
    let groups = topology.groups.iter().filter(|g| g.active && !leaders.contains(&g.group_id));
    without.extend(groups.map(|group| format!("group {}", group.group_id)));
    let inactive = topology.groups.iter().filter(|group| !group.active).count();
    let mut problems = Vec::new();
    if let Some(first) = without.first() {
        problems.push(Problem {
            what: match without.len() {
                1 => format!("{first} has no leader and takes no appends"),
                count => format!("{count} groups have no leader and take no appends: {first} …"),
            },
            next:
                "start the nodes that do not answer; with a majority running, a leader is elected \
                   within seconds"
                    .to_owned(),
        });
    }
    if inactive > 0 {
        problems.push(Problem {
            what: format!("{inactive} groups are still being created"),
            next: "wait a few seconds: quorate status".to_owned(),
        });
    }
    problems
}

fn full_disks(cluster: &DescribeClusterResponse) -> Vec<Problem> {
    let marked = cluster.nodes.iter().filter(|node| matches!(&*node.disk_mark, "SOFT" | "HARD"));
    marked
        .map(|node| Problem {
            what: format!(
                "the disk of node {} is nearly full ({} free): {}",
                node.node_id,
                bytes(node.disk_free_bytes),
                if node.disk_mark == "HARD" { "it takes nothing" } else { "appends are refused" },
            ),
            next: format!("free space on node {}; its ballast file may be deleted", node.node_id),
        })
        .collect()
}

fn lagging(cluster: &DescribeClusterResponse) -> Vec<Problem> {
    let mut last = BTreeMap::new();
    for (_, replica) in replicas(cluster) {
        let newest = last.entry(replica.group_id).or_insert(0);
        *newest = replica.last_index.max(*newest);
    }
    let mut worst: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (node, replica) in replicas(cluster) {
        let lag = last[&replica.group_id].saturating_sub(replica.applied_index);
        let entry = worst.entry(node.node_id).or_insert((0, 0));
        *entry = (*entry).max((lag, replica.group_id));
    }
    let behind = worst.into_iter().filter(|(_, (lag, _))| *lag > LAG_ENTRIES_MAX);
    behind
        .map(|(node, (lag, group))| Problem {
            what: format!("node {node} is behind: group {group} by {lag} entries"),
            next: format!("wait; if it grows, look at the disk and the network of node {node}"),
        })
        .collect()
}

/// A size for people.
pub(super) fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use quorate_client::proto::{Group, Node, Replica};

    use super::*;

    /// Three nodes and one group, all well.
    fn healthy() -> DescribeClusterResponse {
        let replica = |node_id| Replica { node_id, incarnation: 1 };
        let node = |node_id| Node { node_id, meta_incarnation: 1, ..Default::default() };
        let status = |group_id, leads| ReplicaStatus {
            group_id,
            incarnation: 1,
            role: if leads { "leader" } else { "follower" }.to_owned(),
            last_index: 50,
            applied_index: 50,
            leader_node_id: 1,
            ..Default::default()
        };
        DescribeClusterResponse {
            node_id: 1,
            topology: Some(Topology {
                cluster_id: "c1".to_owned(),
                nodes: (1..=3).map(node).collect(),
                groups: vec![Group {
                    group_id: 1,
                    leader_node_id: 1,
                    active: true,
                    replicas: (1..=3).map(replica).collect(),
                    ..Default::default()
                }],
                meta_leader_node_id: 1,
                ..Default::default()
            }),
            nodes: (1..=3)
                .map(|node_id| NodeStatus {
                    node_id,
                    reachable: true,
                    replicas: vec![status(0, node_id == 1), status(1, node_id == 1)],
                    disk_mark: "OK".to_owned(),
                    ..Default::default()
                })
                .collect(),
        }
    }

    fn only_problem(cluster: &DescribeClusterResponse) -> Problem {
        let mut problems = diagnose(cluster);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    #[test]
    fn nothing_is_wrong_with_a_healthy_cluster() {
        assert_eq!(diagnose(&healthy()), []);
    }

    #[test]
    fn a_node_without_a_cluster_is_told_to_init() {
        let problem = only_problem(&DescribeClusterResponse::default());
        assert!(problem.next.starts_with("quorate init"), "{problem:?}");
    }

    #[test]
    fn a_silent_node_is_one_problem_not_one_for_each_replica() {
        let mut cluster = healthy();
        cluster.nodes[2] = NodeStatus { node_id: 3, reachable: false, ..Default::default() };
        assert!(only_problem(&cluster).what.starts_with("node 3 "));
        cluster.nodes[2].problems = vec!["it belongs to another cluster, c2".to_owned()];
        assert!(only_problem(&cluster).what.ends_with(": it belongs to another cluster, c2"));
    }

    #[test]
    fn what_a_node_says_of_itself_is_shown() {
        let mut cluster = healthy();
        cluster.nodes[0].problems = vec!["node 3 refused this node: protocol".to_owned()];
        assert_eq!(only_problem(&cluster).what, "node 1: node 3 refused this node: protocol");
    }

    #[test]
    fn damaged_and_missing_replicas_lead_to_one_replace() {
        let mut cluster = healthy();
        cluster.nodes[1].replicas[0].role = "damaged".to_owned();
        cluster.nodes[1].replicas[0].problem = "bad checksum".to_owned();
        cluster.nodes[1].replicas.remove(1);
        let problem = only_problem(&cluster);
        assert_eq!(problem.next, "quorate node replace 2");
        assert!(problem.what.contains("bad checksum (and 1 more)"), "{problem:?}");
    }

    /// Node 2 is to have new replicas of the meta group and of the group, and still has the first ones.
    fn renewed() -> DescribeClusterResponse {
        let mut cluster = healthy();
        let topology = cluster.topology.as_mut().unwrap();
        topology.nodes[1].meta_incarnation = 2;
        topology.groups[0].replicas[1].incarnation = 2;
        cluster
    }

    #[test]
    fn what_a_replacement_has_left_undone_is_a_problem() {
        let mut cluster = renewed();
        let old = only_problem(&cluster);
        assert_eq!(
            old.what,
            "node 2 is being replaced, or was left half replaced: its old replica of the meta group stands where a \
             new one is to be (and 1 more)"
        );
        assert!(old.next.starts_with("quorate node replace 2 (") && old.next.contains("wait"));

        // Made, and added as learners: nobody counts on them yet.
        for replica in &mut cluster.nodes[1].replicas {
            (replica.incarnation, replica.role) = (2, "learner".to_owned());
        }
        let left = only_problem(&cluster);
        assert!(
            left.what.contains("new replica of the meta group is still a learner (and 1 more)")
        );
        cluster.nodes[1].replicas[0].role = "follower".to_owned();
        let left = only_problem(&cluster);
        assert!(left.what.ends_with(": its new replica of group 1 is still a learner"), "{left:?}");
        cluster.nodes[1].replicas[1].role = "follower".to_owned();
        assert_eq!(diagnose(&cluster), [], "it is done");

        // What does not serve at all comes first, and the same command mends both.
        cluster.nodes[1].replicas[1].incarnation = 1;
        cluster.nodes[1].replicas.remove(0);
        let missing = only_problem(&cluster);
        assert_eq!(
            missing.what,
            "node 2 has replicas that do not serve: the meta group is missing"
        );
        assert_eq!(missing.next, "quorate node replace 2");
    }

    #[test]
    fn a_learner_that_is_meant_to_be_one_and_an_old_topology_are_no_problem() {
        // Who answered has not heard of the new replicas yet.
        let mut cluster = healthy();
        cluster.nodes[1].replicas[1].incarnation = 2;
        assert_eq!(diagnose(&cluster), []);
        // A voter of a new group that has not heard of anything.
        let mut cluster = healthy();
        cluster.nodes[1].replicas[1].role = "learner".to_owned();
        assert_eq!(diagnose(&cluster), []);
        // A node beyond the voters of the meta group, also after its replica was made anew.
        let mut cluster = healthy();
        let topology = cluster.topology.as_mut().unwrap();
        for node_id in 4..=META_VOTERS_MAX as u64 + 1 {
            topology.nodes.push(Node { node_id, meta_incarnation: 2, ..Default::default() });
            let role = if node_id > META_VOTERS_MAX as u64 { "learner" } else { "follower" };
            let mut status = cluster.nodes[2].clone();
            status.replicas.truncate(1);
            (status.node_id, status.replicas[0].incarnation) = (node_id, 2);
            status.replicas[0].role = role.to_owned();
            cluster.nodes.push(status);
        }
        assert_eq!(diagnose(&cluster), []);
    }

    #[test]
    fn a_group_without_a_leader_is_named() {
        let mut cluster = healthy();
        cluster.topology.as_mut().unwrap().groups[0].leader_node_id = 0;
        cluster.nodes[0].replicas[1].role = "candidate".to_owned();
        assert!(only_problem(&cluster).what.starts_with("group 1 has no leader"));
    }

    #[test]
    fn low_disks_and_lag_are_named_with_their_node() {
        let mut cluster = healthy();
        cluster.nodes[1].disk_mark = "SOFT".to_owned();
        cluster.nodes[2].replicas[1].applied_index = 0;
        for node in &mut cluster.nodes {
            node.replicas[1].last_index = LAG_ENTRIES_MAX + 1;
        }
        for node in &mut cluster.nodes[..2] {
            node.replicas[1].applied_index = LAG_ENTRIES_MAX + 1;
        }
        let what: Vec<_> = diagnose(&cluster).into_iter().map(|problem| problem.what).collect();
        assert_eq!(what.len(), 2);
        assert!(what[0].starts_with("the disk of node 2 is nearly full"), "{what:?}");
        assert_eq!(what[1], "node 3 is behind: group 1 by 10001 entries");
        assert_eq!(lag_by_group(&cluster)[&1], LAG_ENTRIES_MAX + 1);
    }
}

//! What is wrong with a cluster, and what to type next: pure, from one DescribeCluster.

use std::collections::{BTreeMap, BTreeSet};

use quorate_client::proto::{DescribeClusterResponse, NodeStatus, ReplicaStatus, Topology};

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
    problems.extend(damaged(topology, cluster));
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

/// Nodes whose replicas are damaged, stopped or missing; one problem each, because one command mends them all.
fn damaged(topology: &Topology, cluster: &DescribeClusterResponse) -> Vec<Problem> {
    let mut problems = Vec::new();
    for node in cluster.nodes.iter().filter(|node| node.reachable) {
        let present: BTreeSet<u64> = node.replicas.iter().map(|r| r.group_id).collect();
        let bad = |replica: &&ReplicaStatus| {
            matches!(replica.role.as_str(), "damaged" | "missing" | "stopped")
        };
        let mut reasons: Vec<String> = node
            .replicas
            .iter()
            .filter(bad)
            .map(|replica| match replica.problem.as_str() {
                "" => format!("group {} is {}", replica.group_id, replica.role),
                problem => format!("group {} is {}: {problem}", replica.group_id, replica.role),
            })
            .collect();
        let placed = |replicas: &[quorate_client::proto::Replica]| {
            replicas.iter().any(|replica| replica.node_id == node.node_id)
        };
        let absent = topology.groups.iter().filter(|group| {
            group.active && placed(&group.replicas) && !present.contains(&group.group_id)
        });
        reasons.extend(absent.map(|group| format!("group {} is missing", group.group_id)));
        if let Some(first) = reasons.first() {
            let more = match reasons.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            problems.push(Problem {
                what: format!(
                    "node {} has replicas that do not serve: {first}{more}",
                    node.node_id
                ),
                next: format!("quorate node replace {}", node.node_id),
            });
        }
    }
    problems
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
        let status = |group_id, leads| ReplicaStatus {
            group_id,
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
                nodes: (1..=3).map(|node_id| Node { node_id, ..Default::default() }).collect(),
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

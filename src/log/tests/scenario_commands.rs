//! The commands of scenarios: reading a line, doing it, and saying what came of it.

use std::collections::BTreeMap;
use std::str::FromStr;

use bytes::Bytes;

use super::properties::forget_expired;
use super::replica::{MINUTE, Replica, append_of, minutes, name, text_message};
use crate::log::queries::{self, Slice};
use crate::log::{
    AppendRefusal, Command, IdKey, LanePlace, NewMessage, Outcome, OutcomeState, Predecessor,
    Settle, Topology, TopologyChange, TopologyGroup, TopologyNode, TopologyReplica, read_topology,
};
use crate::storage::Direction;
use crate::storage::records::Kind;
use crate::types::{
    AttemptId, ClusterId, GroupId, HashRange, Incarnation, NodeId, PlacementHash, Seq, Timestamp,
};

/// One replica, and the leader's clock.
pub struct Scene {
    replica: Replica,
    clock: Timestamp,
}

impl Default for Scene {
    fn default() -> Self {
        Scene { replica: Replica::blank(GroupId(1)), clock: Timestamp(0) }
    }
}

impl Scene {
    pub fn violations(&self) -> Vec<crate::log::invariants::Violation> {
        self.replica.check().violations
    }

    /// Does what a line says and returns what it prints. The first word is the verb; further ones are values,
    /// `key=value`, or `+`, behind which a message follows.
    pub fn play(&mut self, line: &str) -> Result<String, String> {
        let mut parts = line.split(" + ");
        let words = Words::parse(parts.next().unwrap_or_default());
        let messages = parts.map(Words::parse).collect::<Vec<_>>();
        match words.value(0)? {
            "group" => self.group(&words),
            "clock" => {
                self.clock = words.time(words.value(1)?)?;
                Ok(String::new())
            }
            "configure" => self.configure(&words),
            "append" => self.append(&words, &messages),
            "settle" => self.settle(&words),
            "floor" => {
                let floor = words.time(words.value(1)?)?;
                Ok(self.apply(Command::RaiseDedupFloor { floor }))
            }
            "forget-expired" => {
                forget_expired(&mut self.replica);
                Ok(String::new())
            }
            "head" => self.head(&words),
            "read" => self.read(&words),
            "outcome" => self.outcome(&words),
            "topology" => self.topology(),
            _ => self.change_topology(&words),
        }
    }

    fn apply(&mut self, command: Command) -> String {
        let applied = self.replica.apply(self.clock, &command);
        format!("{}\n", describe(&applied.outcome))
    }

    fn group(&mut self, words: &Words) -> Result<String, String> {
        let id = match words.value(1)? {
            "meta" => GroupId::META,
            number => GroupId(parse(number)?),
        };
        self.replica = Replica::blank(id);
        Ok(String::new())
    }

    fn configure(&mut self, words: &Words) -> Result<String, String> {
        let hash = |text: &str| u64::from_str_radix(text, 16).map_err(|error| error.to_string());
        let (start, end) = words.value(1)?.split_once("..").ok_or("a range is START..END")?;
        let end = if end.is_empty() { None } else { Some(PlacementHash(hash(end)?)) };
        let range = HashRange { start: PlacementHash(hash(start)?), end };
        let outcome = self.apply(Command::Configure { range, epoch: words.number("epoch", 1)? });
        let group = &self.replica.group;
        let range = group.range.map_or("none".to_owned(), |range| range.to_string());
        Ok(format!("{}, range {range}, epoch {}\n", outcome.trim_end(), group.epoch))
    }

    fn append(&mut self, words: &Words, messages: &[Words]) -> Result<String, String> {
        let messages = messages.iter().map(new_message).collect::<Result<_, _>>()?;
        let mut append = append_of(words.value(1)?, words.value(2)?, messages);
        append.expected_tail = words.optional("expected_tail")?.map(Seq);
        append.lane = words.lane()?;
        Ok(self.apply(Command::Append(append)))
    }

    fn settle(&mut self, words: &Words) -> Result<String, String> {
        let settle = Settle {
            conversation: name(words.value(1)?),
            id: id_key(words.value(2)?)?,
            issued_at: words.issued_at()?,
        };
        Ok(self.apply(Command::Settle(settle)))
    }

    fn head(&mut self, words: &Words) -> Result<String, String> {
        let head = queries::head(&self.replica.view, &name(words.value(1)?));
        let Some(head) = head.map_err(|error| error.to_string())? else {
            return Ok("none\n".to_owned());
        };
        Ok(format!(
            "first seq {}, tail {}, {} bytes, {} unread, last at {}, digest {}\n",
            head.first_seq,
            head.tail,
            head.bytes,
            head.unread_total,
            moment(head.last_commit_time),
            short(&head.digest),
        ))
    }

    fn read(&mut self, words: &Words) -> Result<String, String> {
        let conversation = name(words.value(1)?);
        let backward = words.value(2).is_ok_and(|word| word == "backward");
        let slice = Slice {
            from: Seq(words.number("from", 0)?),
            to: Seq(words.number("to", u64::MAX)?),
            direction: if backward { Direction::Backward } else { Direction::Forward },
            messages_max: words.number("messages", 100)? as usize,
            bytes_max: words.number("bytes", 1_000)?,
        };
        let read = queries::head(&self.replica.view, &conversation).and_then(|head| {
            head.map_or(Ok(Vec::new()), |head| queries::messages(&self.replica.view, &head, slice))
        });
        let mut output = String::new();
        for message in read.map_err(|error| error.to_string())? {
            let target = message.target_seq.map_or(String::new(), |seq| format!(" of {seq}"));
            output += &format!(
                "{} at {} {:?}{target} {}/{} {:?} unread {} digest {}\n",
                message.seq,
                moment(message.commit_time),
                message.kind,
                message.sender,
                message.client_msg_id,
                String::from_utf8_lossy(&message.payload),
                message.unread_ordinal,
                short(&message.digest),
            );
        }
        Ok(if output.is_empty() { "nothing\n".to_owned() } else { output })
    }

    fn outcome(&mut self, words: &Words) -> Result<String, String> {
        let issued_at = words.keys.get("issued").map(|at| words.time(at)).transpose()?;
        let id = id_key(words.value(2)?)?;
        let conversation = name(words.value(1)?);
        let Replica { view, group } = &self.replica;
        let state = queries::outcome(view, group, &conversation, &id, issued_at);
        Ok(format!("{}\n", describe_state(&state.map_err(|error| error.to_string())?)))
    }

    fn topology(&mut self) -> Result<String, String> {
        let topology = read_topology(&self.replica.view).map_err(|error| error.to_string())?;
        let Some(topology) = topology else {
            return Ok("none\n".to_owned());
        };
        let mut output = format!("cluster {}, version {}\n", topology.cluster, topology.version);
        for node in &topology.nodes {
            let (zone, incarnation) = (&node.zone, node.meta_incarnation);
            output += &format!("  node {} zone {zone:?} meta incarnation {incarnation}\n", node.id);
        }
        for group in &topology.groups {
            let state = if group.active { "active" } else { "creating" };
            output += &format!("  group {} {state}:", group.id);
            for replica in &group.replicas {
                let joining = if replica.joining { " joining" } else { "" };
                output += &format!(" [{}.{}{joining}]", replica.node, replica.incarnation);
            }
            output += "\n";
        }
        Ok(output)
    }

    fn change_topology(&mut self, words: &Words) -> Result<String, String> {
        let group = || Ok::<_, String>(GroupId(words.number("group", 0)?));
        let node = || Ok::<_, String>(NodeId(words.number("node", 0)? as u32));
        let incarnation = || Ok::<_, String>(Incarnation(words.number("incarnation", 0)? as u32));
        let change = match words.value(0)? {
            "create" => {
                let cluster = ClusterId(words.number("cluster", 0)?.into());
                TopologyChange::Create(two_groups_on_two_nodes(cluster))
            }
            "activate" => TopologyChange::ActivateGroup { group: group()? },
            "update" => {
                let zone = words.keys.get("zone").cloned().unwrap_or_default();
                TopologyChange::UpdateNode(topology_node(node()?.0, &zone, 99))
            }
            "renew" => TopologyChange::RenewReplica {
                group: group()?,
                node: node()?,
                incarnation: incarnation()?,
            },
            "made" => TopologyChange::ReplicaMade {
                group: group()?,
                node: node()?,
                incarnation: incarnation()?,
            },
            verb => return Err(format!("no command is called {verb}")),
        };
        Ok(self.apply(Command::ChangeTopology(change)))
    }
}

fn topology_node(id: u32, zone: &str, meta_incarnation: u32) -> TopologyNode {
    TopologyNode {
        id: NodeId(id),
        client_address: format!("n{id}:1"),
        peer_address: format!("n{id}:2"),
        http_address: format!("n{id}:3"),
        zone: zone.to_owned(),
        meta_incarnation: Incarnation(meta_incarnation),
    }
}

pub fn two_groups_on_two_nodes(cluster: ClusterId) -> Topology {
    let replica =
        |node| TopologyReplica { node: NodeId(node), incarnation: Incarnation(1), joining: false };
    let groups = HashRange::divide(2).into_iter().zip(1..).map(|(range, id)| TopologyGroup {
        id: GroupId(id),
        range,
        epoch: 1,
        active: false,
        replicas: vec![replica(1), replica(2)],
    });
    Topology {
        cluster,
        version: 1,
        feature_level: 1,
        nodes: vec![topology_node(1, "", 1), topology_node(2, "", 1)],
        groups: groups.collect(),
    }
}

/// A message: its id, its text, and what differs from content issued at minute 10.
fn new_message(words: &Words) -> Result<NewMessage, String> {
    let kind = match words.keys.get("kind").map(String::as_str) {
        None => Kind::Content,
        Some("system") => Kind::System,
        Some("replacement") => Kind::Replacement,
        Some("redaction") => Kind::Redaction,
        Some(other) => return Err(format!("no kind is called {other}")),
    };
    let header = words.keys.get("header").map(|value| ("h".to_owned(), Bytes::from(value.clone())));
    Ok(NewMessage {
        issued_at: words.issued_at()?,
        kind,
        headers: header.into_iter().collect(),
        target_seq: words.optional("target")?.map(Seq),
        ..text_message(words.value(0)?, words.value(1).unwrap_or_default())
    })
}

fn predecessor(text: &str) -> Result<Predecessor, String> {
    let (attempt, last) = text.split_once(':').ok_or("a predecessor is ATTEMPT:ID")?;
    Ok(Predecessor { attempt: AttemptId(parse(attempt)?), last: id_key(last)? })
}

fn id_key(text: &str) -> Result<IdKey, String> {
    let (sender, client_msg_id) = text.split_once('/').ok_or("an id is SENDER/CLIENT_MSG_ID")?;
    Ok(IdKey { sender: sender.to_owned(), client_msg_id: client_msg_id.to_owned() })
}

/// The words of a line.
struct Words {
    values: Vec<String>,
    keys: BTreeMap<String, String>,
}

impl Words {
    fn parse(text: &str) -> Words {
        let mut words = Words { values: Vec::new(), keys: BTreeMap::new() };
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) => {
                    words.keys.insert(key.to_owned(), value.to_owned());
                }
                None => words.values.push(word.to_owned()),
            }
        }
        words
    }

    fn value(&self, place: usize) -> Result<&str, String> {
        self.values.get(place).map(String::as_str).ok_or_else(|| format!("word {place} is missing"))
    }

    fn optional(&self, key: &str) -> Result<Option<u64>, String> {
        self.keys.get(key).map(|value| parse(value)).transpose()
    }

    fn number(&self, key: &str, otherwise: u64) -> Result<u64, String> {
        Ok(self.optional(key)?.unwrap_or(otherwise))
    }

    /// A time such as `10m` or `5us`.
    fn time(&self, text: &str) -> Result<Timestamp, String> {
        match (text.strip_suffix("us"), text.strip_suffix('m')) {
            (Some(us), _) => Ok(Timestamp(parse(us)?)),
            (None, Some(count)) => Ok(minutes(parse(count)?)),
            (None, None) => Err(format!("{text} is no time")),
        }
    }

    /// A place in a lane: `attempt=2`, with `after=1:alice/a1` if another attempt has to be accepted before.
    fn lane(&self) -> Result<Option<LanePlace>, String> {
        let Some(attempt) = self.optional("attempt")? else { return Ok(None) };
        let predecessor = self.keys.get("after").map(|text| predecessor(text)).transpose()?;
        Ok(Some(LanePlace { attempt: AttemptId(attempt), predecessor }))
    }

    fn issued_at(&self) -> Result<Timestamp, String> {
        self.keys.get("issued").map_or(Ok(minutes(10)), |at| self.time(at))
    }
}

fn parse<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn moment(time: Timestamp) -> String {
    if time.0.is_multiple_of(MINUTE) { format!("{}m", time.0 / MINUTE) } else { time.to_string() }
}

fn short(digest: &[u8; 32]) -> String {
    hex::encode(&digest[..4])
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Appended(appended) => format!(
            "appended [{}, {}] at {} digest {}{}",
            appended.first_seq,
            appended.last_seq,
            moment(appended.commit_time),
            short(&appended.digest),
            if appended.duplicate { ", duplicate" } else { "" },
        ),
        Outcome::AppendRefused(refusal) => {
            format!("refused: {refusal}{}", refusal_details(refusal))
        }
        Outcome::Settled(state) => describe_state(state),
        Outcome::TopologyRefused(refusal) => format!("refused: {refusal}"),
    }
}

fn refusal_details(refusal: &AppendRefusal) -> String {
    match refusal {
        AppendRefusal::WrongGroup { epoch } => format!(" (epoch {epoch})"),
        AppendRefusal::TooOld { floor, .. } => format!(" (floor {})", moment(*floor)),
        AppendRefusal::FromTheFuture { latest, .. } => format!(" (latest {})", moment(*latest)),
        AppendRefusal::Conflict { seqs } => {
            let seqs: Vec<u64> = seqs.iter().map(|seq| seq.0).collect();
            format!(" (seqs {seqs:?})")
        }
        AppendRefusal::BadTarget { tail } => format!(" (tail {tail})"),
        AppendRefusal::NameCollision
        | AppendRefusal::Repeated { .. }
        | AppendRefusal::Burnt { .. }
        | AppendRefusal::WrongTail { .. }
        | AppendRefusal::PredecessorMissing => String::new(),
    }
}

fn describe_state(state: &OutcomeState) -> String {
    match state {
        OutcomeState::Committed { seq, commit_time } => {
            format!("committed at seq {seq}, {}", moment(*commit_time))
        }
        OutcomeState::NotCommitted => "not committed".to_owned(),
        OutcomeState::Burnt => "burnt".to_owned(),
        OutcomeState::TooOld { floor } => format!("too old (floor {})", moment(*floor)),
    }
}

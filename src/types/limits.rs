//! Every bound of the product, by name and with its reason.

/// Bytes of a conversation's name.
pub const CONVERSATION_NAME_BYTES_MAX: usize = 512;
/// Bytes of a sender.
pub const SENDER_BYTES_MAX: usize = 256;
/// Bytes of a client_msg_id.
pub const CLIENT_MSG_ID_BYTES_MAX: usize = 128;
/// Bytes of a content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// Bytes of a W3C traceparent: its one defined form has 55.
pub const TRACEPARENT_BYTES_MAX: usize = 55;
/// Bytes of one payload.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Headers of one message.
pub const HEADERS_MAX: usize = 32;
/// Bytes of one header's name.
pub const HEADER_NAME_BYTES_MAX: usize = 128;
/// Bytes of all header names and values of one message.
pub const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Messages of one batch.
pub const BATCH_MESSAGES_MAX: usize = 1_000;
/// Payload and header bytes of one batch. Below what is decoded of one request (`quorate_client::limits`), with room
/// for envelopes.
pub const BATCH_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Encoded bytes that one Raft entry gathers before it is proposed: large enough to fill an fsync, small enough
/// that replication of one entry does not delay a heartbeat. One batch over it still makes an entry of its own.
pub const ENTRY_BYTES_TARGET: usize = 512 * 1024;
/// Commands that one Raft entry gathers.
pub const ENTRY_COMMANDS_MAX: usize = 1_024;
/// Encoded bytes of one Raft entry at most: a full batch with its envelopes beside a nearly full entry.
pub const ENTRY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How far ahead of the leader's clock an `issued_at` may lie.
pub const ISSUED_AT_AHEAD_US_MAX: u64 = 5 * 60 * 1_000_000;
/// How long after `issued_at` an append may be retried: the dedup horizon.
pub const DEDUP_HORIZON_US_DEFAULT: u64 = 30 * 24 * 3600 * 1_000_000;

/// Messages one Read returns at most, and by default.
pub const READ_MESSAGES_MAX: u32 = 100_000;
/// See [`READ_MESSAGES_MAX`].
pub const READ_MESSAGES_DEFAULT: u32 = 1_000;
/// Payload and header bytes one Read returns by default.
pub const READ_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// Payload and header bytes gathered into one response of a stream: well below gRPC's 4 MiB.
pub const RESPONSE_BYTES_TARGET: usize = 512 * 1024;
/// Conversations of one BatchRead.
pub const BATCH_READ_CONVERSATIONS_MAX: usize = 500;
/// Messages for each conversation of a BatchRead.
pub const BATCH_READ_LAST_MAX: u32 = 1_000;
/// Conversations of one Follow, or at one time of one Subscribe.
pub const SUBSCRIPTION_CONVERSATIONS_MAX: usize = 10_000;
/// Byte credit of one conversation of a subscription at most. Below hyper's connection window matters more than
/// its size: see `service::subscribe`.
pub const SUBSCRIPTION_CREDIT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Byte credit when an Add names none.
pub const SUBSCRIPTION_CREDIT_BYTES_DEFAULT: u64 = 1024 * 1024;
/// Conversations of one page of List.
pub const LIST_PAGE_MAX: u32 = 1_000;

/// Messages gathered into one response of a stream: envelopes of this many, with the bytes above, stay below gRPC's
/// 4 MiB.
pub const RESPONSE_MESSAGES_MAX: usize = 1_000;
/// Payload and header bytes of one BatchRead response: unary, so all of it has to stay below gRPC's 4 MiB.
pub const BATCH_READ_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Messages of one BatchRead response, for the same reason: their envelopes count too.
pub const BATCH_READ_MESSAGES_MAX: usize = 2_000;
/// Responses that wait for one caller's stream. With [`RESPONSE_BYTES_TARGET`] this bounds its memory;
/// [`RESPONSES_BYTES_MAX`] bounds that of all.
pub const RESPONSE_QUEUE_MAX: usize = 4;
/// Parts of such a place on a stream of many conversations. A small response keeps only some of them, so that what one
/// entry brings to tens of conversations goes out at once, and in one piece.
pub const RESPONSE_PLACE_PARTS: usize = 64;
/// How long a Read waits for its caller to take a response, and then fails: a stalled one would hold old state on disk.
pub const READ_STALL_MS_MAX: u64 = 60_000;

/// The same for responses that another node sends: they lie between the two nodes, where what is not taken leaves less
/// room for everybody's. Shorter than other callers' streams may be silent.
pub const HANDED_ON_STALL_MS_MAX: u64 = 20_000;

/// Appends that wait for a place in an entry, for each group. Past it appends are refused as retryable.
pub const PROPOSAL_QUEUE_MAX: usize = 8_192;
/// Memory of one group's appends that wait for a place in an entry or for that entry's outcome. Past it appends are
/// refused as retryable: without a quorum nothing leaves, and a count alone would let megabytes each pile up.
pub const GROUP_PROPOSALS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The same for all groups of a node together.
pub const PROPOSALS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Memory of the appends whose callers wait at one node, whichever node leads. Past it appends are refused as retryable.
/// One of a session that another node leads counts once more until the stream to that node has taken it: it lies there
/// also when its caller was answered because its time is up.
pub const APPEND_CALLS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of requests that are on their way into one port, of all its callers together. Past it calls are refused as
/// retryable: whoever sends a request takes as long as it likes, and each is gathered in one piece of 4 MiB at most. The
/// buffer of one may be twice as large as what is in it. A stream of requests keeps the room of its largest.
pub const REQUESTS_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Memory of the responses of all calls that wait at one node until their callers take them: in the queues of streams, and
/// encoded, until the connection has sent them, in the form in which it is to send them. Past it calls and streams end as
/// retryable. What tells of a write does not count: it is small, and an append that took effect says so.
pub const RESPONSES_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Memory of the newest messages of one conversation that somebody follows: some tens of milliseconds of a conversation
/// as busy as can be, so that who is only late is served from memory. Who lags by more reads the state.
pub const LIVE_CONVERSATION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The same for all conversations of a node. The oldest of them go first, whatever conversation they are of.
pub const LIVE_NODE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Memory of one conversation that is followed, on each node that it passes: a task with a timer, the tail that it
/// watches, and its name in three places. Measured at 2.7 KiB with a short name; the longest adds 1.4 KiB.
pub const FOLLOWED_BYTES: usize = 4 * 1024;
/// Memory of one lane of a session beside its appends: its name, its places in two tables, and for its first requests.
pub const LANE_BYTES: usize = 2 * 1024;
/// Memory of all conversations that callers follow on one node for as long as they like: 262,144 of them, each taken for
/// about what it is at most. Past it conversations and follows end as retryable. The number that one stream may have does
/// not bound it, because the number of streams is up to callers.
pub const FOLLOWED_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Memory of one follow or subscription beside all this: what is free of charge ([`CALL_BYTES_FREE`]) of each response in
/// its queue, of one on its connection, and of the conversations. One that uses all of it is one that nobody reads.
pub const SUBSCRIPTION_BYTES: usize = (RESPONSE_QUEUE_MAX + 2) * CALL_BYTES_FREE;
/// The same of its stream to one other node: of the response at hand, and of the buffer that it came in.
pub const RELAY_BYTES: usize = 2 * CALL_BYTES_FREE;
/// Memory of all follows and subscriptions of one node, so taken: 16,384 of them. Past it further ones are refused as
/// retryable. Room of its own: what few that follow much take, they do not take from many that follow little.
pub const SUBSCRIPTIONS_BYTES_MAX: usize = 16_384 * SUBSCRIPTION_BYTES;
/// The same as [`FOLLOWED_BYTES_MAX`] for lanes of sessions, as many of them: who follows takes no room from who appends. Past it sessions end.
pub const LANES_BYTES_MAX: usize = 512 * 1024 * 1024;
/// What each call may have beside these, of its request, of each response that waits, and of what is kept for it: little
/// more than it has anyway. So what is small gets through, whoever else takes all the room. Of follows and subscriptions,
/// which last as long as their callers like, it has room of its own ([`SUBSCRIPTIONS_BYTES_MAX`]).
pub const CALL_BYTES_FREE: usize = 16 * 1024;
/// Entries of one group that its proposer has in flight. Small ones wait sooner, and grow.
pub const PROPOSALS_IN_FLIGHT_MAX: usize = 8;
/// Appends of one group that are accepted and have no outcome yet: in the queue, in the entry that fills, and in those in
/// flight. How long an accepted one waits at most is what the group takes for so many.
pub const PROPOSALS_WAITING_MAX: usize =
    PROPOSAL_QUEUE_MAX + (1 + PROPOSALS_IN_FLIGHT_MAX) * ENTRY_COMMANDS_MAX;
/// Appends of one session that wait for their outcome.
pub const SESSION_IN_FLIGHT_MAX: usize = 4_096;
/// Memory of the appends of one session that wait for their outcome.
pub const SESSION_IN_FLIGHT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Memory of the appends of one session that wait until the stream to one other node takes them: all that may be in
/// flight, and as much that was given up because the node takes nothing. Past it appends are refused as retryable.
pub const SESSION_STREAM_BYTES_MAX: usize = 2 * SESSION_IN_FLIGHT_BYTES_MAX;
/// Lanes of one session that have state: something in flight, or broken and not reset. Past it the session ends: its
/// caller is not listening.
pub const SESSION_LANES_MAX: usize = 16_384;
/// Writes that wait for the node's log writer. Past it Raft groups wait.
pub const LOG_WRITER_QUEUE_MAX: usize = 4_096;
/// Bytes of one synced write of the log writer at most, unless one append alone is larger.
pub const LOG_WRITER_BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Frames that wait for one peer's connection.
pub const PEER_QUEUE_MAX: usize = 1_024;
/// Bytes of entries on their way to one peer and not answered yet, over all groups, one entry more at most. Past it
/// replication to this peer waits. The peer holds so much in memory, and a link of 30 Mbit/s carries it in the time that
/// an answer may take.
pub const PEER_IN_FLIGHT_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// The part of it that one group may take: a replica that does not answer is in the way of few others.
pub const PEER_STREAM_BYTES_MAX: u32 = PEER_IN_FLIGHT_BYTES_MAX / 4;
/// Calls of one client's connection at a time, streams included. Further ones wait at the client.
pub const CONNECTION_CALLS_MAX: u32 = 4_096;
/// Connections of one port that have not said yet which protocol they speak, or are in their TLS handshake. Further
/// ones wait to be accepted.
pub const GREETINGS_MAX: usize = 1_024;

/// Connections of clients to one node at a time, where its process may open so many files. Further ones are refused:
/// idle ones too take memory.
pub const CLIENT_CONNECTIONS_MAX: usize = 65_536;
/// Connections of probes, Prometheus and browsers at a time. They have places of their own: a node that clients have
/// filled is alive, and says so.
pub const HTTP_CONNECTIONS_MAX: usize = 128;
/// Snapshots that are on their way to a node from each other one, and that a node takes in, at a time: one is installed
/// while the next arrives.
pub const SNAPSHOTS_AT_ONCE: usize = 2;
/// Connections that one node opens to another.
pub const PEER_LINK_CONNECTIONS: usize = 6;
/// Connections that a node opens to the others at a time.
pub const PEER_CONNECTIONS_OUT_MAX: usize = PEER_LINK_CONNECTIONS * (NODES_MAX - 1);
/// Connections that the others open to a node at a time: twice as many, because those of a peer whose machine has died
/// are still there when it is back.
pub const PEER_CONNECTIONS_IN_MAX: usize = 2 * PEER_CONNECTIONS_OUT_MAX;
/// Files that a node has open besides connections and what its databases count: logs that are written, files that
/// flushes, compactions and snapshots are making, the runtime's own.
pub const OTHER_FILES_MAX: usize = 256;

/// Bytes of one line that the command line reads: a full payload as JSON, each of its bytes escaped with six, and the
/// other fields.
pub const CHAT_LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Nodes of one cluster.
pub const NODES_MAX: usize = 99;
/// Bytes of a node's host:port: a DNS name has 253 at most.
pub const ADDRESS_BYTES_MAX: usize = 260;
/// Conversation groups of one cluster.
pub const GROUPS_MAX: u32 = 1_024;
/// Replicas of one group.
pub const REPLICATION_FACTOR_MAX: u32 = 7;

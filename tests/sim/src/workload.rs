//! What clients do in a simulation: appends, the same appends again, sessions, reads at every level, follows,
//! subscriptions and outcome queries, over a few conversations in every group.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quorate::consensus::MemoryLimits;
use quorate_client::proto::AppendResponse;
use quorate_client::{
    Append, Client, ClientOptions, Credit, Delivery, Error, NewMessage, Page, Routing,
    SessionOptions, Start,
};
use quorate_jepsen::api;
use quorate_jepsen::history::{
    AppendCall, Call, Consistency, FollowCall, LanePlace, OutcomeCall, ReadCall, Sent,
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::determinism;
use crate::ground::{CLIENT_PORT, SimDial};
use crate::record::{Caller, Phase, Shared};

/// A call gives up after this long: longer than a failover takes.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// Pause between two calls of one client, at most. What breaks is found by faults that meet calls, not by many calls.
const PAUSE_MAX_MS: u64 = 400;
/// How often all clients rest, and how long at most: long enough for groups to be parked, and then to break.
const REST_EVERY_MS: u64 = 12_000;
const REST_MS: u64 = 4_000;

/// What makes calls meet limits that hardly any other call meets.
#[derive(Clone, Copy)]
pub struct Straits {
    /// What nodes have for what they are asked.
    pub memory: MemoryLimits,
    /// Of so many messages one is large; none if there is no number.
    pub large_every: Option<u64>,
    /// Of each conversation that is subscribed to.
    pub credit: Credit,
    /// Whether who subscribes takes nothing now and then.
    pub naps: bool,
}

/// What every client of a simulation knows.
#[derive(Clone)]
pub struct Plan {
    /// How many nodes there are.
    pub nodes: u64,
    /// Which limits are met.
    pub straits: Straits,
    /// All conversations.
    pub conversations: Rc<Vec<String>>,
    /// Where everything is recorded.
    pub shared: Shared,
    /// Appends that were sent, to be sent again: acknowledged or not.
    pub sent: Rc<RefCell<Vec<AppendCall>>>,
}

/// A client of one node, or one that goes to leaders.
pub async fn connect(plan: &Plan, node: Option<u64>) -> Client {
    let (endpoints, routing) = match node {
        Some(node) => (vec![format!("n{node}:{CLIENT_PORT}")], Routing::Proxy),
        None => {
            let all = (1..=plan.nodes).map(|node| format!("n{node}:{CLIENT_PORT}"));
            (all.collect(), Routing::Leader)
        }
    };
    let options = ClientOptions::new(endpoints).routing(routing).request_timeout(CALL_TIMEOUT);
    let options = options.dial(Arc::new(SimDial));
    loop {
        match Client::connect(options.clone()).await {
            Ok(client) => return client,
            Err(error) => {
                tracing::info!(%error, "not connected yet");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// One append of new messages.
pub fn new_append(plan: &Plan, randomness: &mut SmallRng, sender: &str) -> AppendCall {
    let conversation = plan.conversations.choose(randomness).expect("there are some").clone();
    let count = if randomness.random_ratio(1, 8) { randomness.random_range(2..5) } else { 1 };
    let messages = (0..count).map(|_| {
        let number = plan.shared.new_message();
        Sent {
            client_msg_id: format!("m{number}"),
            issued_at_us: determinism::wall_clock_us(),
            hash: api::hash(plan.payload(number).as_bytes()),
        }
    });
    AppendCall {
        conversation,
        sender: sender.to_owned(),
        messages: messages.collect(),
        expected_tail: None,
        lane: None,
    }
}

impl Straits {
    /// Of a seed: none in half of them.
    pub fn of(seed: u64) -> Straits {
        let mut randomness = SmallRng::seed_from_u64(!seed);
        let mut straits = Straits {
            memory: MemoryLimits::MOST,
            large_every: None,
            credit: Credit::default(),
            naps: false,
        };
        match randomness.random_range(0..4) {
            // Enough for one append, and not for all that come at a time.
            0 => {
                straits.memory.calls = randomness.random_range(4..16) * 1_024;
                straits.memory.proposals = randomness.random_range(4..32) * 1_024;
            }
            // Payloads that are kept apart, and more than a subscription has credit for.
            1 => {
                straits.large_every = Some(randomness.random_range(5..40));
                straits.credit = Credit::Automatic(randomness.random_range(2_048..32_768));
                straits.naps = true;
            }
            _ => {}
        }
        straits
    }
}

impl Plan {
    /// What the message of a number says.
    fn payload(&self, number: u64) -> String {
        let words = ["so it goes", "and then", "nobody saw it", "at noon", "as agreed"];
        let words = words[number as usize % words.len()];
        let is_large = self.straits.large_every.is_some_and(|every| number.is_multiple_of(every));
        let times = if is_large { 500 + number as usize % 5_000 } else { 1 + number as usize % 17 };
        format!("{number}: {}", words.repeat(times))
    }
}

/// The append as the client library takes it.
fn request(plan: &Plan, call: &AppendCall) -> Append {
    let messages = call.messages.iter().map(|message| {
        let number = message.client_msg_id[1..].parse().expect("ids are made of numbers");
        NewMessage::new(plan.payload(number))
            .client_msg_id(message.client_msg_id.clone())
            .issued_at_us(message.issued_at_us)
    });
    let append = Append::batch(call.conversation.clone(), call.sender.clone(), messages);
    match call.expected_tail {
        Some(tail) => append.expected_tail(tail),
        None => append,
    }
}

/// One append, recorded.
pub async fn append(
    plan: &Plan,
    client: &Client,
    caller: &mut Caller,
    call: AppendCall,
) -> Result<AppendResponse, Error> {
    let work = client.append(request(plan, &call));
    caller.call(Call::Append(call), work, api::appended).await
}

/// A pause between two calls; a long one where everybody rests.
async fn pause(randomness: &mut SmallRng) {
    sleep(Duration::from_millis(randomness.random_range(1..PAUSE_MAX_MS))).await;
    let since_rest = determinism::elapsed().as_millis() as u64 % REST_EVERY_MS;
    if since_rest >= REST_EVERY_MS - REST_MS {
        let begin = randomness.random_range(0..PAUSE_MAX_MS);
        sleep(Duration::from_millis(REST_EVERY_MS - since_rest + begin)).await;
    }
}

/// Appends, retries, reads and asks for outcomes, one call after the other, until the work is over.
pub async fn mixed(plan: Plan, node: Option<u64>, seed: u64) {
    let mut randomness = SmallRng::seed_from_u64(seed);
    let client = connect(&plan, node).await;
    let mut caller = plan.shared.caller(node.map(|node| node as u32));
    let sender = format!("s{seed:x}");
    let mut tails = BTreeMap::<String, u64>::new();
    while plan.shared.phase() < Phase::Working {
        sleep(Duration::from_millis(20)).await;
    }
    while plan.shared.phase() == Phase::Working {
        match randomness.random_range(0..100) {
            0..45 => {
                let mut call = new_append(&plan, &mut randomness, &sender);
                if randomness.random_ratio(1, 10) {
                    call.expected_tail = tails.get(&call.conversation).copied();
                }
                if call.expected_tail.is_none() {
                    plan.sent.borrow_mut().push(call.clone());
                }
                let conversation = call.conversation.clone();
                if let Ok(response) = append(&plan, &client, &mut caller, call).await {
                    tails.insert(conversation, response.last_seq + 1);
                }
            }
            45..60 => {
                // Whoever sent it, whether it was answered or not, through this node now.
                let again = plan.sent.borrow().choose(&mut randomness).cloned();
                let Some(call) = again else { continue };
                let _ = append(&plan, &client, &mut caller, call).await;
            }
            60..90 => {
                let conversation =
                    plan.conversations.choose(&mut randomness).expect("some").clone();
                let tail = tails.get(&conversation).copied().unwrap_or(1);
                let consistency = match randomness.random_range(0..4) {
                    0 if tail > 1 => Consistency::AtLeast(tail - 1),
                    1 => Consistency::MaxStalenessMs(500),
                    2 => Consistency::Local,
                    _ => Consistency::Linearizable,
                };
                let from_seq = tail.saturating_sub(randomness.random_range(0..20)).max(1);
                let call = ReadCall {
                    conversation,
                    consistency,
                    from_seq,
                    limit: 50,
                    of_the_end: false,
                    is_final: false,
                };
                let _ = read(&client, &mut caller, call).await;
            }
            _ => {
                let asked = plan.sent.borrow().choose(&mut randomness).cloned();
                let Some(asked) = asked else { continue };
                let message = asked.messages.choose(&mut randomness).expect("one at least");
                let call = OutcomeCall {
                    conversation: asked.conversation.clone(),
                    sender: asked.sender.clone(),
                    client_msg_id: message.client_msg_id.clone(),
                    issued_at_us: message.issued_at_us,
                    settle: randomness.random_ratio(1, 4),
                };
                let work = client.outcome(api::get_outcome(&call));
                let _ = caller.call(Call::Outcome(call), work, api::outcome).await;
            }
        }
        pause(&mut randomness).await;
    }
    plan.shared.change_working(-1);
}

/// One read, recorded.
pub async fn read(client: &Client, caller: &mut Caller, call: ReadCall) -> Result<Page, Error> {
    let work = client.read(api::read(&call));
    caller.call(Call::Read(call), work, api::page).await
}

/// Pipelines appends on a session, and opens a lane again that has broken: with what failed in it, or without.
pub async fn session(plan: Plan, node: Option<u64>, seed: u64) {
    let mut randomness = SmallRng::seed_from_u64(seed);
    let client = connect(&plan, node).await;
    let options = SessionOptions { append_timeout: CALL_TIMEOUT, ..SessionOptions::default() };
    let session = client.session(options).expect("the options are in range");
    let sender = format!("l{seed:x}");
    let mut lanes = BTreeMap::<String, (u64, u64)>::new();
    let mut again = Vec::new();
    while plan.shared.phase() < Phase::Working {
        sleep(Duration::from_millis(20)).await;
    }
    while plan.shared.phase() == Phase::Working {
        // A burst, and then all of its answers.
        let mut answers = Vec::new();
        let mut calls = std::mem::take(&mut again);
        let new = randomness.random_range(2..12);
        calls.extend((0..new).map(|_| new_append(&plan, &mut randomness, &sender)));
        for mut call in calls {
            let (reset, place) = lanes.entry(call.conversation.clone()).or_default();
            call.lane = Some(LanePlace { session: seed, reset: *reset, position: *place });
            *place += 1;
            let handle = session.append(request(&plan, &call)).await;
            let mut caller = plan.shared.caller(node.map(|node| node as u32));
            answers.push(async move {
                let invoked = Call::Append(call.clone());
                (call, caller.call(invoked, handle, api::appended).await.is_ok())
            });
        }
        let sends_again = randomness.random_ratio(2, 3);
        for (call, succeeded) in futures::future::join_all(answers).await {
            if succeeded {
                continue;
            }
            if let Some((reset, place)) = lanes.get_mut(&call.conversation)
                && *place > 0
            {
                (*reset, *place) = (*reset + 1, 0);
                session.resume(call.conversation.clone()).await;
            }
            match sends_again {
                true => again.push(call),
                false => plan.sent.borrow_mut().push(AppendCall { lane: None, ..call }),
            }
        }
        pause(&mut randomness).await;
    }
    plan.shared.change_working(-1);
}

/// Follows everything from the first message on, until the end.
pub async fn follow(plan: Plan, node: Option<u64>) {
    let client = connect(&plan, node).await;
    let caller = plan.shared.caller(node.map(|node| node as u32));
    let from = plan.conversations.iter().map(|name| (name.clone(), 1)).collect();
    caller.opened(FollowCall { from, is_subscription: false, without_library: false });
    let starts = plan.conversations.iter().map(|name| (name.clone(), Start::Seq(1)));
    let mut follow = match client.follow(starts) {
        Ok(follow) => follow,
        Err(error) => return plan.shared.problem(format!("G6: a follow is refused: {error}")),
    };
    loop {
        tokio::select! {
            delivery = follow.next() => match delivery {
                Some(Ok(delivery)) => deliver(&caller, delivery),
                Some(Err(error)) => plan.shared.problem(format!("G6: a follow failed: {error}")),
                None => return plan.shared.problem("G6: a follow ended"),
            },
            () = until_over(&plan) => return caller.ended(),
        }
    }
}

/// Subscribes to everything.
pub async fn subscribe(plan: Plan, node: Option<u64>) {
    let client = connect(&plan, node).await;
    let caller = plan.shared.caller(node.map(|node| node as u32));
    let from = plan.conversations.iter().map(|name| (name.clone(), 1)).collect();
    caller.opened(FollowCall { from, is_subscription: true, without_library: false });
    let mut subscription = client.subscribe();
    for conversation in plan.conversations.iter() {
        let credit = plan.straits.credit;
        let added = subscription.add(conversation.clone(), Start::Seq(1), credit).await;
        if let Err(error) = added {
            return plan.shared.problem(format!("G6: a subscription is refused: {error}"));
        }
    }
    let mut randomness = SmallRng::seed_from_u64(plan.nodes);
    loop {
        if plan.straits.naps
            && plan.shared.phase() == Phase::Working
            && randomness.random_ratio(1, 40)
        {
            sleep(Duration::from_millis(randomness.random_range(1_000..6_000))).await;
        }
        tokio::select! {
            delivery = subscription.next() => deliver(&caller, delivery),
            () = until_over(&plan) => return caller.ended(),
        }
    }
}

async fn until_over(plan: &Plan) {
    while plan.shared.phase() < Phase::Over {
        sleep(Duration::from_millis(50)).await;
    }
}

fn deliver(caller: &Caller, delivery: Delivery) {
    match api::delivered(delivery) {
        Some(delivery) => caller.delivered(delivery),
        None => tracing::warn!("a stream has ended"),
    }
}

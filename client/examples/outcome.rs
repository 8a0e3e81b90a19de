//! Finds out what became of a message whose acknowledgement was lost.
//!
//! `quorate dev`, then `cargo run -p quorate-client --example outcome`.

use std::time::{SystemTime, UNIX_EPOCH};

use quorate_client::proto::GetOutcomeRequest;
use quorate_client::proto::get_outcome_response::State;
use quorate_client::{Append, Client, ClientOptions, NewMessage};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(ClientOptions::new(["127.0.0.1:7101"])).await?;

    // Ids of the caller's own, stored before the first attempt, make a message the same across restarts.
    #[expect(
        clippy::disallowed_methods,
        reason = "a caller stamps its messages with its own clock"
    )]
    let issued_at_us = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    let id = format!("order-{issued_at_us}");
    let message = NewMessage::text("buy 3").client_msg_id(&id).issued_at_us(issued_at_us);
    if let Err(error) = client.append(Append::new("acme/orders", "desk-7", message)).await {
        println!("{error}; may have taken effect: {}", error.may_have_taken_effect());
    }

    // With `settle` the answer is final: if it is not there now, it never will be.
    let request = GetOutcomeRequest {
        conversation: "acme/orders".to_owned(),
        sender: "desk-7".to_owned(),
        client_msg_id: id,
        issued_at_us,
        settle: true,
    };
    let outcome = client.outcome(request).await?;
    match outcome.state() {
        State::Committed => println!("committed at seq {}", outcome.seq),
        State::Burnt => println!("it was not committed and never will be: send a new one"),
        other => println!("{other:?}"),
    }
    Ok(())
}

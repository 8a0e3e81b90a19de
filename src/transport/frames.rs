//! Gathers frames that wait into one message, so that a busy connection pays for few messages and an idle one waits
//! for nobody.

use futures::Stream;
use prost::Message as _;
use tokio::sync::mpsc;

use super::proto::{AppendFrame, AppendFrames, Hello};

/// Frames of one message.
const FRAMES_MAX: usize = 256;
/// Encoded bytes of one message, unless one frame alone is larger.
const BYTES_TARGET: usize = 1024 * 1024;

/// The messages of one direction: the hello first, then whatever waits in the queue, until all senders are gone.
pub fn outbound<F: Into<AppendFrame>>(
    hello: Hello,
    queue: mpsc::Receiver<F>,
) -> impl Stream<Item = AppendFrames> {
    let first = AppendFrames { hello: Some(hello), frames: Vec::new() };
    futures::stream::unfold((Some(first), queue), |(first, mut queue)| async move {
        if let Some(first) = first {
            return Some((first, (None, queue)));
        }
        let frame: AppendFrame = queue.recv().await?.into();
        let mut bytes = frame.encoded_len();
        let mut frames = vec![frame];
        while frames.len() < FRAMES_MAX && bytes < BYTES_TARGET {
            let Ok(frame) = queue.try_recv() else { break };
            let frame = frame.into();
            bytes += frame.encoded_len();
            frames.push(frame);
        }
        Some((AppendFrames { hello: None, frames }, (None, queue)))
    })
}

use tokio::sync::watch;

use crate::types::limits;

/// What may still be sent of one conversation, in payload and header bytes. A message is sent whole while anything
/// is left, so that one larger than the credit gets through; what it takes too much is a debt that the next grant
/// pays first.
pub struct Credit {
    left: watch::Sender<i64>,
}

const MAX: i64 = limits::SUBSCRIPTION_CREDIT_BYTES_MAX as i64;

impl Credit {
    /// A conversation's first credit.
    pub fn new(bytes: u64) -> Self {
        let credit = Credit { left: watch::Sender::new(0) };
        credit.grant(bytes);
        credit
    }

    /// Lets more be sent, up to the limit in all.
    pub fn grant(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(MAX).min(MAX);
        self.left.send_modify(|left| *left = (*left + bytes).min(MAX));
    }

    /// Counts what was sent.
    pub fn spend(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        // Nobody waits for less.
        self.left.send_if_modified(|left| {
            *left = left.saturating_sub(bytes);
            false
        });
    }

    /// Waits until there is credit and returns it. Cancel safe.
    pub async fn available(&self) -> u64 {
        let left = *self.left.borrow();
        if left > 0 {
            return left.unsigned_abs();
        }
        let mut receiver = self.left.subscribe();
        match receiver.wait_for(|left| *left > 0).await {
            Ok(left) => left.unsigned_abs(),
            // Cannot happen: the sender is ours.
            Err(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_is_sent_is_gone_until_more_is_granted() {
        let credit = Credit::new(10);
        assert_eq!(credit.available().now_or_never(), Some(10));
        credit.spend(4);
        assert_eq!(credit.available().now_or_never(), Some(6));
        credit.spend(6);
        assert_eq!(credit.available().now_or_never(), None);
        credit.grant(1);
        assert_eq!(credit.available().now_or_never(), Some(1));
    }

    #[test]
    fn a_debt_is_paid_first() {
        let credit = Credit::new(10);
        credit.spend(15);
        credit.grant(5);
        assert_eq!(credit.available().now_or_never(), None);
        credit.grant(1);
        assert_eq!(credit.available().now_or_never(), Some(1));
    }

    #[test]
    fn the_sum_is_bounded() {
        let credit = Credit::new(u64::MAX);
        credit.grant(u64::MAX);
        let available = credit.available().now_or_never();
        assert_eq!(available, Some(limits::SUBSCRIPTION_CREDIT_BYTES_MAX));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_a_grant() {
        let credit = std::sync::Arc::new(Credit::new(0));
        let waiting = tokio::spawn({
            let credit = credit.clone();
            async move { credit.available().await }
        });
        tokio::task::yield_now().await;
        credit.grant(7);
        assert_eq!(waiting.await.unwrap(), 7);
    }
}

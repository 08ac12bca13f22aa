//! Several streams of responses as one, each response in its turn: what has come first is given first, as long as each stream has
//! all of its responses when the next one begins, as requests of one sequence do. A stream that always has more lets others have
//! their turn after a while.

use std::task::{Context, Poll};

use futures_util::{
    Stream, StreamExt,
    stream::{FuturesUnordered, StreamFuture},
};

/// Most responses of one stream in a row while others may have some.
const MOST_IN_A_ROW: usize = 1024;

/// Several streams as one.
pub(super) struct Several<S> {
    /// In the order in which they were woken.
    others: FuturesUnordered<StreamFuture<S>>,
    /// The one that gave the last response, and how many in a row. It is asked first: what it has came before what others have,
    /// which were woken later.
    current: Option<(S, usize)>,
}

impl<S: Stream + Unpin> Several<S> {
    /// None so far.
    pub(super) fn new() -> Self {
        Self { others: FuturesUnordered::new(), current: None }
    }

    /// How many have not ended.
    pub(super) fn len(&self) -> usize {
        self.others.len() + usize::from(self.current.is_some())
    }

    /// Adds one.
    pub(super) fn push(&mut self, stream: S) {
        self.others.push(stream.into_future());
    }

    /// Drops all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// The next response of any; pending, too, if there is none to come.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<S::Item> {
        if let Some((mut stream, in_a_row)) = self.current.take() {
            if in_a_row < MOST_IN_A_ROW {
                match stream.poll_next_unpin(context) {
                    Poll::Ready(Some(item)) => {
                        self.current = Some((stream, in_a_row + 1));
                        return Poll::Ready(item);
                    }
                    Poll::Ready(None) => return self.poll_others(context),
                    Poll::Pending => {}
                }
            }
            self.push(stream);
        }
        self.poll_others(context)
    }

    fn poll_others(&mut self, context: &mut Context<'_>) -> Poll<S::Item> {
        while let Poll::Ready(Some((item, stream))) = self.others.poll_next_unpin(context) {
            if let Some(item) = item {
                self.current = Some((stream, 1));
                return Poll::Ready(item);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{stream, task::noop_waker};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    struct Responses(UnboundedReceiver<usize>);

    impl Stream for Responses {
        type Item = usize;

        fn poll_next(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<usize>> {
            self.0.poll_recv(context)
        }
    }

    fn next<S: Stream + Unpin>(several: &mut Several<S>) -> Poll<S::Item> {
        several.poll_next(&mut Context::from_waker(&noop_waker()))
    }

    #[test]
    fn what_one_has_comes_before_what_others_had_later() {
        let mut several = Several::new();
        let (first, theirs) = unbounded_channel();
        several.push(Responses(theirs));
        let (second, theirs) = unbounded_channel();
        several.push(Responses(theirs));
        assert_eq!(next(&mut several), Poll::Pending);
        for number in 0..5 {
            first.send(number).unwrap();
        }
        drop(first);
        for number in 5..8 {
            second.send(number).unwrap();
        }
        for number in 0..8 {
            assert_eq!(next(&mut several), Poll::Ready(number));
        }
        assert_eq!((next(&mut several), several.len()), (Poll::Pending, 1));
        second.send(8).unwrap();
        assert_eq!(next(&mut several), Poll::Ready(8));
        drop(second);
        assert_eq!((next(&mut several), several.len()), (Poll::Pending, 0));
    }

    #[test]
    fn one_that_always_has_more_keeps_no_other_waiting_for_ever() {
        let mut several = Several::new();
        several.push(stream::repeat(1));
        several.push(stream::repeat(2));
        let seen: Vec<_> = (0..3 * MOST_IN_A_ROW).map(|_| next(&mut several)).collect();
        assert_eq!(seen.iter().filter(|item| **item == Poll::Ready(2)).count(), MOST_IN_A_ROW);
    }
}

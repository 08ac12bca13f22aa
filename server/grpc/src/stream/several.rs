//! Several streams of responses as one, in the order in which responses have come, as far as it matters: a stream gives all that
//! it has before the next one, and of those that were found to have something at the same time the first one added begins. So
//! what requests of one sequence are answered comes in their order, for the next one begins when the one before is over. A
//! stream that always has more lets others have their turn after a while.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{
    Stream, StreamExt,
    stream::{FuturesUnordered, StreamFuture},
};

/// Most responses of one stream in a row while others have some.
const MOST_IN_A_ROW: usize = 1024;

/// Several streams as one.
pub(super) struct Several<S: Stream> {
    added: u64,
    /// The one that gave the last response, and how many in a row.
    current: Option<(Numbered<S>, usize)>,
    /// Those that have a response, which is given in this order.
    ready: VecDeque<(S::Item, Numbered<S>)>,
    /// Those that had none when they were asked last.
    waiting: FuturesUnordered<StreamFuture<Numbered<S>>>,
}

/// A stream with its place in the order in which they were added.
struct Numbered<S> {
    number: u64,
    stream: S,
}

impl<S: Stream + Unpin> Stream for Numbered<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.stream.poll_next_unpin(context)
    }
}

impl<S: Stream + Unpin> Several<S> {
    /// None so far.
    pub(super) fn new() -> Self {
        Self { added: 0, current: None, ready: VecDeque::new(), waiting: FuturesUnordered::new() }
    }

    /// How many have not ended.
    pub(super) fn len(&self) -> usize {
        usize::from(self.current.is_some()) + self.ready.len() + self.waiting.len()
    }

    /// Adds one.
    pub(super) fn push(&mut self, stream: S) {
        self.added += 1;
        self.waiting.push(Numbered { number: self.added, stream }.into_future());
    }

    /// Drops all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// The next response of any; pending, too, if there is none to come.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<S::Item> {
        if let Some((mut stream, in_a_row)) = self.current.take() {
            match stream.poll_next_unpin(context) {
                Poll::Ready(Some(item)) if in_a_row < MOST_IN_A_ROW => {
                    self.current = Some((stream, in_a_row + 1));
                    return Poll::Ready(item);
                }
                Poll::Ready(Some(item)) => self.ready.push_back((item, stream)),
                Poll::Ready(None) => {}
                Poll::Pending => self.waiting.push(stream.into_future()),
            }
        }
        if self.ready.is_empty() {
            self.ask_all(context);
        }
        let Some((item, stream)) = self.ready.pop_front() else { return Poll::Pending };
        self.current = Some((stream, 1));
        Poll::Ready(item)
    }

    /// Asks all that were woken: whoever was woken later may be asked first.
    fn ask_all(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Some((item, stream))) = self.waiting.poll_next_unpin(context) {
            if let Some(item) = item {
                self.ready.push_back((item, stream));
            }
        }
        self.ready.make_contiguous().sort_by_key(|(_, stream)| stream.number);
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

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<usize>> {
            self.0.poll_recv(context)
        }
    }

    fn next<S: Stream + Unpin>(several: &mut Several<S>) -> Poll<S::Item> {
        several.poll_next(&mut Context::from_waker(&noop_waker()))
    }

    #[test]
    fn the_first_one_gives_all_that_it_has_before_the_next() {
        let mut several = Several::new();
        let (first, theirs) = unbounded_channel();
        several.push(Responses(theirs));
        let (second, theirs) = unbounded_channel();
        several.push(Responses(theirs));
        assert_eq!(next(&mut several), Poll::Pending);
        // woken in the other order
        for number in 5..8 {
            second.send(number).unwrap();
        }
        for number in 0..5 {
            first.send(number).unwrap();
        }
        drop(first);
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

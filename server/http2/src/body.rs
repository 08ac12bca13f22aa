//! The body of a request between the connection, which receives it, and the call, which reads it.
//!
//! Bytes wait here until the call asks for them, as many as the window of the call allows. A call that knows where they
//! belong offers that memory: then they are received there, without a copy on the way, and the call is not woken before it is full.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use server_tls::Stream;

/// Memory that a body is received in.
pub trait Destination: Send {
    /// Adds bytes to the end, at most as many as there was said to be room for.
    fn extend(&mut self, bytes: &[u8]);

    /// Reads to the end from the connection, at most so many bytes; how many.
    ///
    /// Errors: those of the connection.
    fn poll_read(&mut self, stream: &mut Stream, context: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>>;

    /// Whether the memory behind its bytes holds some already, whatever they are, so that writing there costs nothing besides.
    fn is_initialized(&self) -> bool;

    /// Has bytes written to the end: `write` is given room for so many, at most as many as there was said to be room for, and
    /// says how many of its first bytes are to stay.
    fn extend_with(&mut self, room: usize, write: impl FnOnce(&mut [u8]) -> usize);
}

/// The client has reset the call, or its connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset;

/// The body of a request, as its call has it. It is read where the call is polled.
#[derive(Debug)]
pub struct Body<D>(Arc<Mutex<Shared<D>>>);

/// The same as the connection has it.
#[derive(Debug)]
pub(crate) struct Inbox<D>(Arc<Mutex<Shared<D>>>);

#[derive(Debug)]
struct Shared<D> {
    queued: VecDeque<Bytes>,
    offer: Option<Offer<D>>,
    has_ended: bool,
    is_reset: bool,
    /// Whether the call has dropped its body: what still comes is thrown away.
    is_dropped: bool,
    /// Bytes that have left the queue since that was asked last.
    freed: usize,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Offer<D> {
    destination: D,
    room: usize,
}

impl<D> Default for Shared<D> {
    fn default() -> Self {
        Self {
            queued: VecDeque::new(),
            offer: None,
            has_ended: false,
            is_reset: false,
            is_dropped: false,
            freed: 0,
            waker: None,
        }
    }
}

impl<D> Shared<D> {
    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn waits(&mut self, context: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => self.waker = Some(context.waker().clone()),
        }
    }
}

impl<D> Body<D> {
    /// The bytes that come next; `None` after the last.
    ///
    /// Errors: the call was reset.
    pub fn poll_data(&mut self, context: &Context<'_>) -> Poll<Option<Result<Bytes, Reset>>> {
        let mut shared = self.0.lock();
        if let Some(bytes) = shared.queued.pop_front() {
            shared.freed += bytes.len();
            return Poll::Ready(Some(Ok(bytes)));
        }
        if shared.has_ended {
            return Poll::Ready(None);
        }
        if shared.is_reset {
            return Poll::Ready(Some(Err(Reset)));
        }
        shared.waits(context);
        Poll::Pending
    }

    /// Offers memory that has room for so many bytes of those that come next. The call is woken when they are there, or when
    /// no more come; it takes the memory back then, or whenever it likes. What is offered is returned if nothing is waited for.
    pub fn offer(&mut self, context: &Context<'_>, destination: D, room: usize) -> Option<D> {
        let mut shared = self.0.lock();
        if room == 0 || !shared.queued.is_empty() || shared.has_ended || shared.is_reset {
            return Some(destination);
        }
        shared.waits(context);
        shared.offer = Some(Offer { destination, room });
        None
    }

    /// What was offered, with the bytes that have come.
    pub fn take_back(&mut self) -> Option<D> {
        self.0.lock().offer.take().map(|offer| offer.destination)
    }

    /// Whether nothing more comes.
    pub fn is_at_end(&self) -> bool {
        let shared = self.0.lock();
        shared.has_ended && shared.queued.is_empty() && shared.offer.is_none()
    }
}

impl<D> Drop for Body<D> {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        shared.is_dropped = true;
        shared.freed += shared.queued.iter().map(Bytes::len).sum::<usize>();
        shared.queued.clear();
        let offer = shared.offer.take();
        drop(shared);
        drop(offer); // whose memory may be anything's
    }
}

impl<D: Destination> Inbox<D> {
    /// Of one call after the other.
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// The body of the next call.
    pub(crate) fn begin(&mut self, has_ended: bool) -> Body<D> {
        // used again, unless somebody has kept the body of the last call
        match Arc::get_mut(&mut self.0) {
            Some(shared) => {
                let shared = shared.get_mut();
                let queued = std::mem::take(&mut shared.queued);
                *shared = Shared { queued, ..Shared::default() };
                shared.queued.clear();
            }
            None => self.0 = Arc::default(),
        }
        self.0.lock().has_ended = has_ended;
        Body(self.0.clone())
    }

    /// Takes bytes that have come. How many are gone at once: what was received where it belongs, or thrown away.
    pub(crate) fn put(&self, mut bytes: &[u8], has_ended: bool) -> Put {
        let mut shared = self.0.lock();
        shared.has_ended |= has_ended;
        let mut gone = 0;
        if shared.is_dropped {
            return Put { gone: bytes.len(), is_awaited: false };
        }
        if let Some(offer) = &mut shared.offer {
            let (fits, rest) = bytes.split_at(bytes.len().min(offer.room));
            offer.destination.extend(fits);
            offer.room -= fits.len();
            gone = fits.len();
            bytes = rest;
            if offer.room > 0 && !has_ended {
                return Put { gone, is_awaited: false };
            }
        }
        if !bytes.is_empty() {
            shared.queued.push_back(Bytes::copy_from_slice(bytes));
        }
        shared.wake();
        Put { gone, is_awaited: !has_ended }
    }

    /// The room in memory that was offered.
    pub(crate) fn room(&self) -> usize {
        self.0.lock().offer.as_ref().map_or(0, |offer| offer.room)
    }

    /// Reads from the connection to memory that was offered, at most so many bytes; how many.
    pub(crate) fn poll_read(
        &self,
        stream: &mut Stream,
        context: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.lock();
        let Some(offer) = &mut shared.offer else { return Poll::Ready(Ok(0)) };
        let read = offer.destination.poll_read(stream, context, limit.min(offer.room));
        if let Poll::Ready(Ok(count)) = read {
            offer.room = offer.room.saturating_sub(count);
            if offer.room == 0 {
                shared.wake();
            }
        }
        read
    }

    /// The room in memory that was offered and is initialized.
    pub(crate) fn initialized_room(&self) -> usize {
        let shared = self.0.lock();
        shared.offer.as_ref().filter(|offer| offer.destination.is_initialized()).map_or(0, |offer| offer.room)
    }

    /// Has bytes written to memory that was offered, where there has to be room for so many: `write` says how many stay.
    pub(crate) fn write(&self, room: usize, write: impl FnOnce(&mut [u8]) -> usize) {
        let mut shared = self.0.lock();
        let Some(offer) = &mut shared.offer else { return };
        let mut count = 0;
        offer.destination.extend_with(room, |room| {
            count = write(room);
            count
        });
        offer.room = offer.room.saturating_sub(count);
        if offer.room == 0 {
            shared.wake();
        }
    }

    /// Bytes that wait to be read.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().queued.iter().map(Bytes::len).sum()
    }

    /// Bytes that the call has read or thrown away since the last time.
    pub(crate) fn take_freed(&self) -> usize {
        std::mem::take(&mut self.0.lock().freed)
    }

    /// The call is over, and nothing more comes: whoever has kept its body hears of that. All bytes that are counted as
    /// received still.
    pub(crate) fn clear(&self) -> usize {
        let mut shared = self.0.lock();
        if !shared.is_dropped {
            shared.is_reset = true;
            shared.wake();
        }
        let queued = shared.queued.drain(..).map(|bytes| bytes.len()).sum::<usize>();
        let offer = shared.offer.take();
        let freed = queued + std::mem::take(&mut shared.freed);
        shared.waker = None;
        drop(shared);
        drop(offer);
        freed
    }
}

/// What became of bytes that have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Put {
    /// Bytes that are counted no longer.
    pub(crate) gone: usize,
    /// Whether the call may now say where the bytes behind them belong.
    pub(crate) is_awaited: bool,
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    /// Memory on the heap.
    impl Destination for Vec<u8> {
        fn extend(&mut self, bytes: &[u8]) {
            self.extend_from_slice(bytes);
        }

        fn poll_read(&mut self, _: &mut Stream, _: &mut Context<'_>, _: usize) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn is_initialized(&self) -> bool {
            false
        }

        fn extend_with(&mut self, room: usize, write: impl FnOnce(&mut [u8]) -> usize) {
            let begin = self.len();
            self.resize(begin + room, 0);
            let count = write(&mut self[begin..]);
            self.truncate(begin + count);
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn begin() -> (Inbox<Vec<u8>>, Body<Vec<u8>>, Arc<Wakes>) {
        let mut inbox = Inbox::new();
        let body = inbox.begin(false);
        (inbox, body, Arc::default())
    }

    #[test]
    fn bytes_wait_until_they_are_read_and_are_counted_until_then() {
        let (inbox, mut body, wakes) = begin();
        let waker = wakes.clone().into();
        let context = Context::from_waker(&waker);
        assert!(body.poll_data(&context).is_pending());
        assert_eq!(inbox.put(b"one", false), Put { gone: 0, is_awaited: true });
        assert_eq!(inbox.put(b"two", true), Put { gone: 0, is_awaited: false });
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert_eq!((inbox.take_freed(), body.is_at_end()), (0, false));
        assert_eq!(body.poll_data(&context), Poll::Ready(Some(Ok("one".into()))));
        assert_eq!(inbox.take_freed(), 3);
        assert_eq!(body.poll_data(&context), Poll::Ready(Some(Ok("two".into()))));
        assert_eq!(body.poll_data(&context), Poll::Ready(None));
        assert_eq!((inbox.take_freed(), inbox.take_freed(), body.is_at_end()), (3, 0, true));
    }

    #[test]
    fn bytes_are_received_where_they_belong_and_the_call_sleeps_until_all_are_there() {
        let (inbox, mut body, wakes) = begin();
        let waker = wakes.clone().into();
        let context = Context::from_waker(&waker);
        assert!(body.offer(&context, b">".to_vec(), 6).is_none());
        assert_eq!(inbox.put(b"abc", false), Put { gone: 3, is_awaited: false });
        assert_eq!((wakes.0.load(Ordering::Relaxed), inbox.room()), (0, 3));
        assert_eq!(inbox.put(b"defgh", false), Put { gone: 3, is_awaited: true });
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(body.take_back().unwrap(), b">abcdef");
        assert_eq!(body.offer(&context, vec![1], 6), Some(vec![1]), "bytes wait before those that come");
        assert_eq!(body.poll_data(&context), Poll::Ready(Some(Ok("gh".into()))));
        assert_eq!(body.offer(&context, vec![1], 0), Some(vec![1]));
        assert!(body.offer(&context, vec![1], 6).is_none());
        assert_eq!(inbox.put(b"i", true), Put { gone: 1, is_awaited: false });
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert!(!body.is_at_end());
        assert_eq!(body.take_back().unwrap(), b"\x01i");
        assert!(body.is_at_end());
        assert_eq!(body.offer(&context, vec![1], 6), Some(vec![1]));
    }

    #[test]
    fn a_body_that_was_dropped_takes_everything_and_keeps_nothing() {
        let (inbox, body, _) = begin();
        inbox.put(b"one", false);
        drop(body);
        assert_eq!(inbox.take_freed(), 3);
        assert_eq!(inbox.put(b"two", false), Put { gone: 3, is_awaited: false });
        assert_eq!(inbox.clear(), 0);
    }

    #[test]
    fn a_reset_wakes_the_call_and_the_next_call_knows_nothing_of_it() {
        let (mut inbox, mut body, wakes) = begin();
        let waker = wakes.clone().into();
        let context = Context::from_waker(&waker);
        assert!(body.poll_data(&context).is_pending());
        inbox.put(b"one", false);
        assert_eq!(inbox.clear(), 3);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert_eq!(body.poll_data(&context), Poll::Ready(Some(Err(Reset))));
        let mut next = inbox.begin(true); // the last body is kept by somebody
        assert_eq!(next.poll_data(&context), Poll::Ready(None));
        assert_eq!(body.poll_data(&context), Poll::Ready(Some(Err(Reset))));
        drop((body, next));
        assert!(inbox.begin(false).poll_data(&context).is_pending());
    }
}

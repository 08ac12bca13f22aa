use super::*;
use server_core::{buffer::Buffer, error::Code};

const MIB: usize = 1 << 20;

fn pool(total: usize, idle: usize) -> Arc<SegmentPool> {
    SegmentPool::new(Limits { total, idle, idle_for: Duration::from_secs(3600), ..Limits::default() })
}

fn counts(pool: &SegmentPool) -> (usize, usize, u64) {
    (pool.bytes(), pool.idle_bytes(), pool.made())
}

#[test]
fn what_was_written_is_seen_by_whoever_finds_the_segment_by_a_slice() {
    let pool = pool(0, MIB);
    let mut writable = pool.take(5000).unwrap();
    assert_eq!(writable.len(), 5000);
    writable.fill(7);
    writable[4000] = 9;
    let id = writable.segment().id();
    let bytes = writable.freeze(4500);
    let slice = Buffer::from(bytes.slice(4000..4100));
    drop(bytes);
    let (segment, offset) = Segment::of(&slice).unwrap();
    assert_eq!((segment.id(), offset), (id, 4000));
    assert_eq!(slice.as_host().unwrap()[..2], [9, 7]);
    assert_eq!(&segment.view(4000..4002, ()).unwrap()[..], [9, 7]);
}

#[test]
fn a_segment_is_used_again_when_the_last_slice_is_dropped() {
    let pool = pool(0, 100 * MIB);
    let mut writable = pool.take(MIB).unwrap();
    let first = writable.segment().id();
    writable.fill(0);
    let bytes = writable.freeze(MIB);
    let slice = bytes.slice(10..20);
    drop(bytes);
    assert_ne!(pool.take(10).unwrap().segment().id(), first);
    drop(slice);
    assert_eq!(pool.take(MIB).unwrap().segment().id(), first);
    // also one that was never shown
    assert_eq!(pool.take(MIB).unwrap().segment().id(), first);
}

#[test]
fn the_smallest_that_fits_is_used_again_and_of_equal_ones_the_last() {
    let pool = pool(0, 100 * MIB);
    let [large, small, equal] = [3 * MIB, MIB, MIB].map(|len| pool.take(len).unwrap());
    let ids = [&large, &small, &equal].map(|writable| writable.segment().id());
    drop(small);
    drop(large);
    drop(equal);
    let again = [10, 10, 2 * MIB].map(|len| pool.take(len).unwrap());
    assert_eq!(again.map(|writable| writable.segment().id()), [ids[2], ids[1], ids[0]]);
    assert_eq!(pool.made(), 3);
}

#[test]
fn memory_is_counted_as_far_as_it_was_used() {
    let pool = pool(0, 100 * MIB);
    let one = pool.take(1).unwrap();
    assert_eq!((one.segment().len(), counts(&pool)), (MIB, (4096, 0, 1)));
    drop(one);
    assert_eq!(counts(&pool), (4096, 4096, 1));
    drop(pool.take(5000).unwrap());
    drop(pool.take(1).unwrap());
    assert_eq!(counts(&pool), (8192, 8192, 1));
    let large = pool.take(MIB + 1).unwrap();
    assert_eq!((large.segment().len(), counts(&pool)), (2 * MIB, (8192 + MIB + 4096, 8192, 2)));
}

#[test]
fn idle_segments_go_when_there_are_too_many_or_the_limit_needs_it() {
    let pool = pool(10 * MIB, 6 * MIB);
    let taken = [4, 3, 2].map(|mib| pool.take(mib * MIB).unwrap());
    drop(taken);
    // 4 and 3 together are too many: the one that came first went
    assert_eq!(counts(&pool), (5 * MIB, 5 * MIB, 3));
    drop(pool.take(8 * MIB).unwrap());
    assert_eq!(counts(&pool), (5 * MIB - 3 * MIB - 2 * MIB, 0, 4));
}

#[test]
fn the_limit_holds_and_the_error_names_it() {
    let pool = pool(2 * MIB, MIB);
    let held = pool.take(MIB).unwrap();
    drop(pool.take(MIB / 2).unwrap());
    let error = pool.take(MIB + 1).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert_eq!(
        error.message,
        "no shared memory for 1048577 bytes: 1048576 bytes of the maximum of 2097152 bytes are in use. Send it again later, \
         or use --backend-config=python,shm-max-byte-size=BYTES to increase the limit."
    );
    // what was refused took nothing, and what was idle made room in vain
    assert_eq!(counts(&pool), (MIB, 0, 2));
    drop(held);
    drop(pool.take(2 * MIB).unwrap());
    // a segment that fits but was not used so far before is no way round the limit
    let pool = SegmentPool::new(Limits { smallest: 8 * MIB, total: 2 * MIB, ..Limits::default() });
    drop(pool.take(1).unwrap());
    pool.take(3 * MIB).unwrap_err();
    assert_eq!(counts(&pool), (0, 0, 1));
    pool.take(usize::MAX).unwrap_err();
}

#[test]
fn what_is_idle_for_long_is_given_back_and_no_sooner() {
    let pool = SegmentPool::new(Limits { idle_for: Duration::from_secs(3600), ..Limits::default() });
    drop(pool.take(1).unwrap());
    let now = Instant::now();
    let next = pool.sweep_at(now).unwrap();
    assert_eq!(counts(&pool), (4096, 4096, 1));
    assert!(next > now + Duration::from_secs(3500), "{:?}", next - now);
    assert_eq!(pool.sweep_at(now + Duration::from_secs(3601)), None);
    assert_eq!(counts(&pool), (0, 0, 1));
    drop(pool.take(1).unwrap());
    pool.clear();
    assert_eq!(counts(&pool), (0, 0, 2));
}

#[test]
fn a_pool_sweeps_by_itself() {
    let pool = SegmentPool::new(Limits { idle_for: Duration::from_millis(1), ..Limits::default() });
    for _ in 0..2 {
        drop(pool.take(1).unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        while pool.bytes() > 0 || pool.state.lock().has_sweeper {
            assert!(Instant::now() < deadline, "{pool:?}");
            thread::yield_now();
        }
    }
}

#[test]
fn requests_leave_descriptors_for_those_who_run_them() {
    let pool = pool(0, MIB);
    let take = || InputMemory::take(&*pool, 10);
    let mut taken: Vec<_> = (0..MAX_FOR_REQUESTS).map(|_| take().unwrap()).collect();
    assert!(take().is_none());
    let more = pool.take(10).unwrap();
    taken.pop();
    assert!(take().is_none());
    drop(more);
    assert_eq!(take().unwrap().size(), 10);
    pool.take(usize::MAX - PAGE).unwrap_err(); // the system has not so much, and none of it is in use
    assert!(take().is_some());
}

#[test]
fn threads_never_share_a_segment() {
    let pool = pool(0, MIB);
    thread::scope(|scope| {
        for number in 0..4u8 {
            let pool = &pool;
            scope.spawn(move || {
                for len in (0..2000usize).map(|round| round * 37 % 20_000) {
                    let mut writable = pool.take(len).unwrap();
                    writable.fill(number);
                    let bytes = writable.freeze(len);
                    assert!(bytes.iter().all(|&byte| byte == number));
                }
            });
        }
    });
    assert_eq!(pool.bytes(), pool.idle_bytes());
    assert!(pool.made() <= 4, "{}", pool.made());
}

//! `TRITONSERVER_InferenceTrace`: what is recorded of a request. That of a request which a backend runs is the server's
//! ([`InferenceTrace::of`]); a library may make records of its own as well, whose functions are called.

use std::{
    ffi::{CString, c_char, c_void},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use server_core::trace::{Activity, Trace};

use super::{allocator::UserPointer, delete};
use crate::abi::{
    Handle, Out, Text,
    export::exports,
    handle::objects,
    numbers::{DataType, MemoryType, TraceActivity, TraceLevel},
    objects::text,
};

objects! { 28: InferenceTrace => "TRITONSERVER_InferenceTrace" }

type ActivityFn = unsafe extern "C" fn(Handle<InferenceTrace>, TraceActivity, u64, *mut c_void);
type ReleaseFn = unsafe extern "C" fn(Handle<InferenceTrace>, *mut c_void);
type TensorActivityFn = unsafe extern "C" fn(
    Handle<InferenceTrace>,
    TraceActivity,
    *const c_char,
    DataType,
    *const c_void,
    usize,
    *const i64,
    u64,
    MemoryType,
    i64,
    *mut c_void,
);

/// A record, until the library deletes it.
pub(crate) struct InferenceTrace {
    level: TraceLevel,
    id: u64,
    parent_id: u64,
    functions: Functions,
    /// A child of the server's own record, which the library made: the server deletes it once it was sent with a request.
    is_child: bool,
    /// The server's own record, if it is one.
    core: Option<Arc<Trace>>,
    about: Mutex<About>,
}

#[derive(Clone, Copy, Default)]
struct Functions {
    activity: Option<ActivityFn>,
    release: Option<ReleaseFn>,
    user: UserPointer,
}

/// What it is a record of.
#[derive(Default)]
struct About {
    model: CString,
    request_id: CString,
    context: CString,
}

/// A record of a request under way.
pub(super) struct Running {
    handle: Handle<InferenceTrace>,
    trace: Arc<InferenceTrace>,
}

impl Running {
    /// The request begins.
    pub(super) fn begin(handle: Handle<InferenceTrace>, trace: Arc<InferenceTrace>, model: &str, id: &str) -> Self {
        {
            let mut about = trace.about.lock();
            (about.model, about.request_id) = (text(model), text(id));
        }
        trace.say(handle, TraceActivity::REQUEST_START, now_ns());
        Self { handle, trace }
    }

    /// The request has ended: the record is the library's again.
    #[allow(unsafe_code)]
    pub(super) fn end(self) {
        self.trace.say(self.handle, TraceActivity::REQUEST_END, now_ns());
        if let Some(release) = self.trace.functions.release {
            // SAFETY: the function of the library that was given for this.
            unsafe { release(self.handle, self.trace.functions.user.0) }
        } else {
            self.trace.let_go(self.handle);
        }
    }
}

impl InferenceTrace {
    /// The server's record of a request.
    pub(crate) fn of(trace: &Arc<Trace>) -> Self {
        let about = About { context: text(&trace.context().unwrap_or_default()), ..About::default() };
        Self {
            level: TraceLevel::TIMESTAMPS,
            id: trace.id(),
            parent_id: trace.parent_id(),
            functions: Functions::default(),
            is_child: false,
            core: Some(trace.clone()),
            about: Mutex::new(about),
        }
    }

    /// The server's record, if it is one.
    pub(super) fn core(&self) -> Option<&Arc<Trace>> {
        self.core.as_ref()
    }

    /// The request that it was sent with has ended, or was refused.
    pub(super) fn let_go(&self, handle: Handle<Self>) {
        if self.is_child {
            _ = handle.take();
        }
    }

    fn new(level: TraceLevel, parent_id: u64, functions: Functions) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (id, about) = (NEXT.fetch_add(1, Relaxed), Mutex::default());
        Self { level, id, parent_id, functions, is_child: false, core: None, about }
    }

    #[allow(unsafe_code)]
    fn say(&self, handle: Handle<Self>, activity: TraceActivity, timestamp_ns: u64) {
        let wants_times = self.level.0 & (TraceLevel::TIMESTAMPS.0 | TraceLevel::MIN.0 | TraceLevel::MAX.0) != 0;
        if let Some(function) = self.functions.activity.filter(|_| wants_times) {
            // SAFETY: the function of the library that was given for this.
            unsafe { function(handle, activity, timestamp_ns, self.functions.user.0) }
        }
    }

    /// A text of it. It stays as it is while the request is under way and after, until the trace is used for another.
    fn text(&self, of: impl Fn(&About) -> &CString) -> Text {
        Text::of(of(&self.about.lock()))
    }
}

exports! {
    /// A record of times.
    fn TRITONSERVER_InferenceTraceNew(
        trace: Out<Handle<InferenceTrace>>,
        level: TraceLevel,
        parent_id: u64,
        activity: Option<ActivityFn>,
        release: Option<ReleaseFn>,
        user: *mut c_void,
    ) {
        let functions = Functions { activity, release, user: UserPointer(user) };
        trace.set(Handle::new(InferenceTrace::new(level, parent_id, functions)))
    }

    /// A record of times; tensors are not recorded.
    fn TRITONSERVER_InferenceTraceTensorNew(
        trace: Out<Handle<InferenceTrace>>,
        level: TraceLevel,
        parent_id: u64,
        activity: Option<ActivityFn>,
        _tensor_activity: Option<TensorActivityFn>,
        release: Option<ReleaseFn>,
        user: *mut c_void,
    ) {
        let functions = Functions { activity, release, user: UserPointer(user) };
        trace.set(Handle::new(InferenceTrace::new(level, parent_id, functions)))
    }

    /// Says that something of the library's own happened then.
    fn TRITONSERVER_InferenceTraceReportActivity(trace: Handle<InferenceTrace>, timestamp_ns: u64, activity: Text) {
        let (handle, trace) = (trace, trace.get()?);
        let activity = activity.get()?;
        match &trace.core {
            Some(core) => core.reached(Activity::Custom((&*activity).into()), moment(timestamp_ns)),
            None => trace.say(handle, TraceActivity::CUSTOM_ACTIVITY, timestamp_ns),
        }
        Ok(())
    }

    /// Deletes a record.
    fn TRITONSERVER_InferenceTraceDelete(trace: Handle<InferenceTrace>) {
        delete(trace)
    }

    /// Its number, which no other record has.
    fn TRITONSERVER_InferenceTraceId(trace: Handle<InferenceTrace>, id: Out<u64>) {
        id.set(trace.get()?.id)
    }

    /// The number of the record it belongs to, or 0.
    fn TRITONSERVER_InferenceTraceParentId(trace: Handle<InferenceTrace>, parent_id: Out<u64>) {
        parent_id.set(trace.get()?.parent_id)
    }

    /// Which model was asked.
    fn TRITONSERVER_InferenceTraceModelName(trace: Handle<InferenceTrace>, name: Out<Text>) {
        name.set(trace.get()?.text(|about| &about.model))
    }

    /// Which version was asked: -1, for it was chosen later.
    fn TRITONSERVER_InferenceTraceModelVersion(trace: Handle<InferenceTrace>, version: Out<i64>) {
        trace.get()?;
        version.set(-1)
    }

    /// The id of the request.
    fn TRITONSERVER_InferenceTraceRequestId(trace: Handle<InferenceTrace>, id: Out<Text>) {
        id.set(trace.get()?.text(|about| &about.request_id))
    }

    /// A record of a request that is made for another.
    fn TRITONSERVER_InferenceTraceSpawnChildTrace(trace: Handle<InferenceTrace>, child: Out<Handle<InferenceTrace>>) {
        let parent = trace.get()?;
        let new = match &parent.core {
            Some(core) => InferenceTrace { is_child: true, ..InferenceTrace::of(&core.child()) },
            None => InferenceTrace::new(parent.level, parent.id, parent.functions),
        };
        if new.core.is_none() {
            new.about.lock().context = parent.about.lock().context.clone();
        }
        child.set(Handle::new(new))
    }

    /// Says what it belongs to elsewhere, as JSON with headers of W3C Trace Context.
    fn TRITONSERVER_InferenceTraceSetContext(trace: Handle<InferenceTrace>, context: Text) {
        trace.get()?.about.lock().context = text(&context.get()?);
        Ok(())
    }

    /// What it belongs to elsewhere.
    fn TRITONSERVER_InferenceTraceContext(trace: Handle<InferenceTrace>, context: Out<Text>) {
        context.set(trace.get()?.text(|about| &about.context))
    }
}

/// The moment at which that clock showed so much.
fn moment(timestamp_ns: u64) -> Instant {
    let (now, now_ns) = (Instant::now(), now_ns());
    match now_ns.checked_sub(timestamp_ns) {
        Some(ago) => now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now),
        None => now, // nobody knows the future
    }
}

/// Now, on the clock that does not jump.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

//! The spool: order, bounds, and what becomes of it when either side ends, in memory and on disk.

use std::time::Duration;

use http::HeaderMap;
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;
use crate::proxy::disk::Disk;
use crate::proxy::disk::tests::full;

const OVER: End = End { service: Duration::ZERO, fault: None };

fn data(n: usize) -> Frame<Bytes> {
    Frame::data(Bytes::from(vec![b'x'; n]))
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// The disk in a folder of its own, which goes with the second.
fn disk() -> (Disk, tempfile::TempDir) {
    let (disk, folder) = (Disk::default(), tempfile::tempdir().unwrap());
    disk.set(folder.path(), 0, 0);
    (disk, folder)
}

fn share(disk: &Disk, most: u64, app_most: u64) -> Option<Share> {
    Share::new(disk, &"shop".into(), most, app_most)
}

/// As a flight does: pushes once there is room, and has nothing more to say for now.
async fn push(writer: &mut Writer, frame: Frame<Bytes>) {
    room(writer).await;
    writer.push(frame);
    while writer.flush() {
        room(writer).await;
    }
}

async fn room(writer: &mut Writer) {
    let room = poll_fn(|cx| writer.poll_room(cx));
    timeout(Duration::from_secs(20), room).await.expect("there is room").unwrap();
}

async fn next(reader: &mut Reader) -> Result<Frame<Bytes>, End> {
    timeout(Duration::from_secs(20), poll_fn(|cx| reader.poll_next(cx))).await.expect("something comes")
}

async fn rest(reader: &mut Reader) -> Vec<u8> {
    let mut read = Vec::new();
    loop {
        match next(reader).await {
            Ok(frame) => read.extend_from_slice(frame.data_ref().unwrap()),
            Err(End { fault, .. }) => break assert_eq!(fault, None),
        }
    }
    read
}

#[test]
fn a_full_spool_has_room_again_once_the_client_reads() {
    let (mut writer, mut reader) = spool(10, Memory::default(), None);
    assert_eq!(writer.poll_room(&mut cx()), Poll::Ready(Ok(())));
    writer.push(data(12));
    assert!(writer.poll_room(&mut cx()).is_pending());
    assert!(matches!(reader.poll_next(&mut cx()), Poll::Ready(Ok(_))));
    assert_eq!(writer.poll_room(&mut cx()), Poll::Ready(Ok(())));
}

#[test]
fn without_memory_one_frame_at_a_time_is_kept() {
    let memory = Memory::default();
    memory.set_most(1);
    let (mut writer, mut reader) = spool(1000, memory.clone(), None);
    writer.push(data(1));
    assert_eq!(writer.poll_room(&mut cx()), Poll::Ready(Ok(())));
    let held = memory.hold(Bytes::from_static(b"elsewhere"));
    assert!(writer.poll_room(&mut cx()).is_pending());
    assert!(matches!(reader.poll_next(&mut cx()), Poll::Ready(Ok(_))));
    assert_eq!(writer.poll_room(&mut cx()), Poll::Ready(Ok(())));
    drop(held);
}

#[tokio::test]
async fn what_was_pushed_before_the_end_is_read_before_the_end() {
    let (mut writer, mut reader) = spool(10, Memory::default(), None);
    writer.push(data(1));
    writer.end(End { fault: Some(Fault::ServerInterrupted), ..OVER }).await;
    assert!(matches!(reader.poll_next(&mut cx()), Poll::Ready(Ok(_))));
    assert!(matches!(reader.poll_next(&mut cx()), Poll::Ready(Err(End { fault: Some(_), .. }))));
}

#[test]
fn the_writer_is_told_when_nobody_reads_any_more() {
    let (mut writer, reader) = spool(10, Memory::default(), None);
    assert!(writer.poll_gone(&cx()).is_pending());
    drop(reader);
    assert_eq!(writer.poll_room(&mut cx()), Poll::Ready(Err(Gone)));
}

#[tokio::test]
async fn what_memory_has_no_room_for_goes_to_disk_and_comes_back_in_order() {
    let (disk, _folder) = disk();
    let memory = Memory::default();
    memory.set_most(1 << 30);
    let (mut writer, mut reader) = spool(10, memory.clone(), share(&disk, 1000, 1000));
    let parts: Vec<Vec<u8>> = (1..=9).map(|n| vec![n; 20 * usize::from(n)]).collect();
    for part in &parts {
        push(&mut writer, Frame::data(memory.hold(part.clone().into()))).await;
    }
    // One is in memory, one has the room that it left.
    assert_eq!((disk.held(), disk.files(), memory.held()), (880, 1, 20));
    push(&mut writer, Frame::trailers(HeaderMap::new())).await;
    let mut trailers = 0;
    writer.end(OVER).await;
    let mut read = Vec::new();
    while let Ok(frame) = next(&mut reader).await {
        trailers += usize::from(frame.is_trailers());
        read.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
    }
    assert_eq!((read, trailers), (parts.concat(), 1));
    assert_eq!((disk.held(), disk.files(), memory.held()), (0, 0, 0));
}

#[tokio::test]
async fn a_client_that_keeps_up_never_meets_the_disk() {
    let disk = Disk::default();
    disk.set("/nowhere/at/all", 0, 0);
    let (mut writer, mut reader) = spool(10, Memory::default(), share(&disk, 1000, 1000));
    for _ in 0..100 {
        push(&mut writer, data(20)).await;
        let Poll::Ready(Ok(frame)) = reader.poll_next(&mut cx()) else { panic!("it is there at once") };
        assert_eq!(frame.data_ref().unwrap().len(), 20);
    }
    assert!(disk.fallbacks().iter().all(|(_, count)| *count == 0));
}

#[tokio::test]
async fn a_reader_that_is_dropped_takes_what_was_stored_with_it() {
    let (disk, _folder) = disk();
    let (mut writer, mut reader) = spool(10, Memory::default(), share(&disk, 1 << 20, 1 << 20));
    for _ in 0..10 {
        push(&mut writer, data(1000)).await;
    }
    assert_eq!(disk.held(), 9000);
    assert!(next(&mut reader).await.is_ok());
    // In the middle of a read and of a write, if the disk is not quicker than we are.
    let _ = poll_fn(|cx| Poll::Ready(reader.poll_next(cx))).await;
    push(&mut writer, data(1000)).await;
    writer.push(data(1000));
    assert!(writer.flush());
    drop(reader);
    assert_eq!(disk.held(), 0);
    let gone = timeout(Duration::from_secs(20), poll_fn(|cx| writer.poll_room(cx))).await;
    assert_eq!(gone, Ok(Err(Gone)));
    writer.end(OVER).await;
    timeout(Duration::from_secs(20), async {
        while disk.files() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn without_room_on_disk_the_writer_waits_for_the_client_and_nothing_is_lost() {
    for (most, app_most, fallbacks) in [(100, 1000, 0), (1000, 100, 1), (1000, 10, 1)] {
        let (disk, _folder) = disk();
        let (mut writer, mut reader) = spool(10, Memory::default(), share(&disk, most, app_most));
        let mut pushed = 0;
        for _ in 0..50 {
            match poll_fn(|cx| Poll::Ready(writer.poll_room(cx))).await {
                Poll::Ready(room) => {
                    room.unwrap();
                    writer.push(data(30));
                    pushed += 30;
                }
                Poll::Pending if writer.is_writing() => room_or_wait(&mut writer).await,
                Poll::Pending => break,
            }
            writer.flush();
        }
        assert!((30..200).contains(&pushed), "{pushed} of {most} and {app_most}");
        assert!(disk.held() <= most.min(app_most));
        let mut read = 0;
        while pushed < 3000 || read < 3000 {
            if let Poll::Ready(room) = poll_fn(|cx| Poll::Ready(writer.poll_room(cx))).await
                && pushed < 3000
            {
                room.unwrap();
                writer.push(data(30));
                pushed += 30;
                writer.flush();
            } else if let Poll::Ready(frame) = poll_fn(|cx| Poll::Ready(reader.poll_next(cx))).await {
                read += frame.unwrap().data_ref().unwrap().len();
            } else {
                writer.flush();
                tokio::task::yield_now().await;
            }
        }
        writer.end(OVER).await;
        assert_eq!((rest(&mut reader).await.len(), read, disk.held()), (0, 3000, 0));
        assert_eq!(disk.fallbacks().iter().map(|(_, count)| count).sum::<u64>(), fallbacks);
    }
}

/// Waits for the disk alone.
async fn room_or_wait(writer: &mut Writer) {
    while writer.is_writing() {
        let _ = poll_fn(|cx| Poll::Ready(writer.poll_room(cx))).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_disk_that_is_full_or_not_there_loses_nothing_and_is_not_asked_again() {
    for there in [true, false] {
        let disk = Disk::default();
        disk.set("/nowhere/at/all", 0, 0);
        let (mut writer, mut reader) = spool(10, Memory::default(), share(&disk, 1000, 1000));
        writer.shared.lock().stored.as_mut().unwrap().file = there.then(|| full(&disk));
        push(&mut writer, data(11)).await;
        writer.push(data(12));
        writer.push(data(13));
        assert!(writer.flush());
        room_or_wait(&mut writer).await;
        assert!(poll_fn(|cx| Poll::Ready(writer.poll_room(cx))).await.is_pending(), "the client has to read");
        let name = if there { "no_space" } else { "error" };
        assert_eq!(
            disk.fallbacks().into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>(),
            [(name, 1)]
        );
        assert_eq!((disk.held(), disk.files()), (0, 0));
        writer.end(OVER).await;
        assert_eq!(rest(&mut reader).await.len(), 36);
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_back_breaks_off() {
    let (disk, _folder) = disk();
    let (mut writer, mut reader) = spool(10, Memory::default(), share(&disk, 1000, 1000));
    for _ in 0..3 {
        push(&mut writer, data(20)).await;
    }
    // A file that gives other bytes than were put in would not be noticed; one that ends early is.
    let elsewhere = Scratch::write(None, &disk, 0, Vec::new()).await.unwrap().unwrap();
    writer.shared.lock().stored.as_mut().unwrap().file = Some(elsewhere);
    assert!(next(&mut reader).await.is_ok());
    assert!(matches!(next(&mut reader).await, Err(End { fault: Some(Fault::Platform), .. })));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(usize),
    Flush,
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![(1..400usize).prop_map(Step::Push), Just(Step::Flush), Just(Step::Read), Just(Step::Read)]
}

proptest! {
    /// Whatever is pushed and read in whatever order, under whatever bounds: the bytes come out as they went in, and
    /// the bounds hold.
    #[test]
    fn what_goes_in_comes_out(
        steps in prop::collection::vec(step(), 1..120),
        (most, most_on_disk, app_most) in (1..600usize, 0..900u64, 0..900u64),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (disk, _folder) = disk();
            let (mut writer, mut reader) = spool(most, Memory::default(), share(&disk, most_on_disk, app_most));
            let (mut sent, mut read) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Push(length) => {
                        if let Poll::Ready(room) = poll_fn(|cx| Poll::Ready(writer.poll_room(cx))).await {
                            room.unwrap();
                            let part: Vec<u8> = (0..length).map(|n| (sent.len() + n) as u8).collect();
                            sent.extend_from_slice(&part);
                            writer.push(Frame::data(part.into()));
                        }
                    }
                    Step::Flush => {
                        writer.flush();
                        room_or_wait(&mut writer).await;
                    }
                    Step::Read => {
                        let mut polls = 0;
                        while polls < 50 && !reader.shared.lock().parts.is_empty() {
                            polls += 1;
                            if let Poll::Ready(frame) = poll_fn(|cx| Poll::Ready(reader.poll_next(cx))).await {
                                read.extend_from_slice(frame.unwrap().data_ref().unwrap());
                                break;
                            }
                            tokio::task::yield_now().await;
                        }
                    }
                }
                assert!(disk.held() <= most_on_disk.min(app_most));
                assert!(writer.shared.lock().bytes < most.max(1) + WRITE + 800);
            }
            writer.end(OVER).await;
            read.extend(rest(&mut reader).await);
            assert!(read == sent);
            assert_eq!(disk.held(), 0);
        });
    }
}

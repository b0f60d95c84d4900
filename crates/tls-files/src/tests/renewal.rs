//! Files that change while a process runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use super::*;

/// The reports, in order.
#[derive(Clone, Default)]
struct Reports(Arc<Mutex<Vec<Result<(), TlsFile>>>>);

impl Reports {
    fn all(&self) -> MutexGuard<'_, Vec<Result<(), TlsFile>>> {
        self.0.lock().expect("no panic")
    }
}

fn renewed<S: Source>(source: S) -> (Arc<Renewed<S>>, Reports) {
    let reports = Reports::default();
    let into = reports.clone();
    let report = move |result: Result<(), &FileError>| into.all().push(result.map_err(|error| error.file));
    (Arc::new(Renewed::new(source, report).expect("they fit")), reports)
}

#[tokio::test]
async fn renewed_files_are_used_and_unusable_ones_leave_those_before_in_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("peers");
    let files = authority.write(folder.path(), &authority.sign("replica-0", 4000));
    let (tls, reports) = renewed(PeerSource { files: files.clone(), subject: subject() });
    let first = tls.current().await;
    assert!(Arc::ptr_eq(&first.server, &tls.current().await.server), "unchanged files were loaded again");
    assert_eq!(*reports.all(), []);

    let renewed = authority.sign("replica-0", 4000);
    fs::write(&files.certificate, &renewed.certificate).expect("a file");
    assert!(Arc::ptr_eq(&first.server, &tls.current().await.server), "a certificate without its key is in use");
    assert_eq!(*reports.all(), [Err(TlsFile::Key)]);
    assert!(tls.status().error().expect("it failed").to_string().contains("is not the key of"));

    fs::write(&files.key, &renewed.key).expect("a file");
    let second = tls.current().await;
    assert!(!Arc::ptr_eq(&first.server, &second.server), "the renewed certificate is not in use");
    assert_eq!(*reports.all(), [Err(TlsFile::Key), Ok(())]);
    assert_eq!((tls.status().failures(), tls.status().error()), (1, None));
}

fn listener(files: &TlsFiles) -> ListenerFiles {
    let clients = ClientAuthority { ca: files.ca.clone(), crl: files.crl.clone(), is_required: true };
    ListenerFiles {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        clients: Some(clients),
        oldest_version: OldestVersion::Tls13,
    }
}

#[tokio::test]
async fn a_listener_takes_over_a_new_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("clients");
    let files = authority.write(folder.path(), &authority.sign("replica-0", 4000));
    let (tls, reports) = renewed(listener(&files));
    let first = tls.current().await;
    fs::write(&files.ca, "nothing").expect("a file");
    assert!(Arc::ptr_eq(&first, &tls.current().await), "a file without certificates is in use");
    fs::write(&files.ca, Authority::new("other clients").issuer.pem()).expect("a file");
    assert!(!Arc::ptr_eq(&first, &tls.current().await), "the new authority is not in use");
    assert_eq!(*reports.all(), [Err(TlsFile::Ca), Ok(())]);
    fs::remove_file(&files.ca).expect("a file");
    tls.current().await;
    assert_eq!(*reports.all(), [Err(TlsFile::Ca), Ok(()), Err(TlsFile::Ca)]);
}

#[tokio::test]
async fn a_fault_that_stays_is_reported_once_and_a_restored_file_ends_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("clients");
    let files = authority.write(folder.path(), &authority.sign("replica-0", 4000));
    let (tls, reports) = renewed(listener(&files));
    let key = fs::read(&files.key).expect("a file");
    fs::write(&files.key, "nothing").expect("a file");
    tls.current().await;
    tls.current().await;
    assert_eq!((reports.all().len(), tls.status().failures()), (1, 1));
    fs::write(&files.key, key).expect("a file");
    tls.current().await;
    assert_eq!((reports.all().len(), tls.status().error()), (1, None));
}

#[tokio::test]
async fn an_expired_certificate_does_not_replace_a_valid_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("clients");
    let files = authority.write(folder.path(), &authority.sign("replica-0", 4000));
    let (tls, reports) = renewed(listener(&files));
    let first = tls.current().await;
    authority.write(folder.path(), &authority.sign("replica-0", 2001));
    assert!(Arc::ptr_eq(&first, &tls.current().await), "an expired certificate is in use");
    assert_eq!(*reports.all(), [Err(TlsFile::Certificate)]);
    assert!(tls.status().validity().expect("one was read").seconds_left() > 0);
    // Without a better one, it is still better than none.
    let (tls, _) = renewed(listener(&files));
    assert!(tls.status().validity().expect("one was read").seconds_left() < 0);
}

fn date(path: &PathBuf, ago: Duration) {
    let file = fs::File::options().append(true).open(path).expect("a file");
    file.set_modified(SystemTime::now() - ago).expect("a time");
}

#[test]
fn stamps_of_a_file_that_was_just_written_are_not_relied_upon() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca.pem");
    fs::write(&path, "a").expect("a file");
    let paths = [(TlsFile::Ca, path.as_path())];
    let before = crate::files::Stamps::of(&paths).expect("a file");
    assert!(!before.are_settled());
    // The time of the last change to the inode cannot be set, so that this is still not settled.
    date(&path, Duration::from_secs(60));
    let after = crate::files::Stamps::of(&paths).expect("a file");
    assert!(before != after && !after.are_settled());
}

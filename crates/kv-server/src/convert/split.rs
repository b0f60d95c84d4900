//! From several replicas in one process to one process for each.
//!
//! Each replica's directory is moved as a whole, with its log and its disk's id: to the others it
//! is the same member as before. So it must never be usable in two places. First the identity of
//! the old directory is renamed, after which nothing opens that one any more. Then each new
//! directory is put together under another name inside the old one, and becomes visible, complete,
//! with one rename.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::checks::{self, check};
use super::note::Note;
use super::{Check, ConvertError, Plan, Step, failed_to, sync};
use crate::data_dir::{IDENTITY_FILE, Identity, SPLIT_IDENTITY, lock, make_directory, read_identity, write_identity};
use crate::mode::Mode;

pub(super) fn plan(root: &Path, replicas: &[u32], out: &Path) -> Result<Plan, ConvertError> {
    let out = absolute(out)?;
    let refused = |error: crate::data_dir::DataDirError| ConvertError::Refused(error.to_string());
    let split = read_identity(&root.join(SPLIT_IDENTITY)).map_err(refused)?;
    let (identity, is_begun) = match (split, read_identity(&root.join(IDENTITY_FILE)).map_err(refused)?) {
        (Some(identity), None) => (identity, true),
        _ => (checks::found(root)?.0, false),
    };
    let mut ids = replicas.to_vec();
    ids.sort_unstable();
    let mut checks = vec![whose_data(&identity, &ids, root)];
    checks.extend(is_same_place(root, &out, is_begun)?);
    let (work, mut missing) =
        (Rc::new(Split { root: root.to_path_buf(), out, identity, lock: RefCell::default() }), Vec::new());
    for id in ids {
        if !(is_begun && work.target(id).join(IDENTITY_FILE).exists()) {
            missing.push(id);
        }
    }
    checks.extend(missing.iter().flat_map(|id| work.may_move(*id)));
    if let Some(obstacle) = is_same_file_system(root, &work.out) {
        checks.push(obstacle);
    }
    let result = format!("the replicas of {} are in {}, one directory for each", root.display(), work.out.display());
    let steps = if is_begun && missing.is_empty() { Vec::new() } else { work.steps(is_begun, &missing) };
    if !steps.is_empty() {
        checks.push(checks::is_stopped(root)?);
    }
    Ok(Plan { checks, steps, result })
}

fn absolute(path: &Path) -> Result<PathBuf, ConvertError> {
    std::path::absolute(path).map_err(failed_to("find", path))
}

fn whose_data(identity: &Identity, ids: &[u32], root: &Path) -> Check {
    let is_several = identity.mode == Mode::Replicated && identity.replicas.len() > 1;
    let listed: Vec<String> = identity.replicas.iter().map(u32::to_string).collect();
    check(format!("the data is that of these {} replicas", ids.len()), is_several && identity.replicas == ids, || {
        let remedy = match (is_several, identity.mode) {
            (true, _) => format!("give --split {}", listed.join(",")),
            (false, Mode::Standalone) => "`synodkv convert --to replicated` makes a cluster of it".to_string(),
            (false, Mode::Replicated) => "there is nothing to split".to_string(),
        };
        format!("data directory {} belongs to {}; {remedy}", root.display(), identity.describe())
    })
}

/// A split is finished with the directory with which it was begun.
fn is_same_place(root: &Path, out: &Path, is_begun: bool) -> Result<Option<Check>, ConvertError> {
    let Some(Note::Split(begun)) = Note::read(root)?.filter(|_| is_begun) else { return Ok(None) };
    Ok(Some(check("the directory is the one with which the split was begun", begun == out, || {
        format!(
            "data directory {} is split, or being split, into {}: give that as --out",
            root.display(),
            begun.display()
        )
    })))
}

/// Directories are moved by renames, so both places must be on one file system.
fn is_same_file_system(root: &Path, out: &Path) -> Option<Check> {
    let device = |path: &Path| fs::metadata(path).ok().map(|found| found.dev());
    let nearest = out.ancestors().find_map(device);
    Some(check("both directories are on one file system", device(root) == nearest, || {
        format!(
            "{} is on another file system than {}: give an --out on the same one, and move each directory afterwards, while \
             no server runs on it",
            out.display(),
            root.display()
        )
    }))
}

struct Split {
    root: PathBuf,
    out: PathBuf,
    identity: Identity,
    /// Held until the last step is done.
    lock: RefCell<Option<File>>,
}

impl Split {
    fn source(&self, id: u32) -> PathBuf {
        self.root.join(format!("replica-{id}"))
    }

    /// Where the directory of a replica is put together.
    fn draft(&self, id: u32) -> PathBuf {
        self.root.join(format!("split-{id}"))
    }

    fn target(&self, id: u32) -> PathBuf {
        self.out.join(format!("replica-{id}"))
    }

    fn may_move(&self, id: u32) -> [Check; 2] {
        let (source, draft, target) = (self.source(id), self.draft(id), self.target(id));
        let source = if draft.join(format!("replica-{id}")).exists() { draft } else { source };
        let is_free = fs::read_dir(&target)
            .map_or_else(|error| error.kind() == std::io::ErrorKind::NotFound, |mut entries| entries.next().is_none());
        let place = check(format!("there is no {} yet", target.display()), is_free, || {
            format!("{} exists and is not empty: move it away, or choose another --out", target.display())
        });
        [checks::is_plain_directory(&source), place]
    }

    fn steps(self: Rc<Self>, is_begun: bool, missing: &[u32]) -> Vec<Step> {
        let mut steps = vec![self.step("lock the data directory", move |work| work.lock(is_begun))];
        if !is_begun {
            steps.push(self.step(format!("create {}, and note it in convert.json", self.out.display()), Split::note));
            let text =
                format!("rename identity.json to {SPLIT_IDENTITY}: from here on nothing opens {}", self.root.display());
            steps.push(self.step(text, Split::retire));
        }
        for id in missing.iter().copied() {
            let text = format!("put the directory of replica {id} together in {}", self.draft(id).display());
            steps.push(self.step(text, move |work| work.assemble(id)));
            let text = format!(
                "rename it to {}: from here on that is the data directory of replica {id}",
                self.target(id).display()
            );
            steps.push(self.step(text, move |work| work.publish(id)));
        }
        steps
    }

    fn step(
        self: &Rc<Self>,
        text: impl Into<String>,
        run: impl FnOnce(&Split) -> Result<(), ConvertError> + 'static,
    ) -> Step {
        let work = self.clone();
        Step::new(text, move || run(&work))
    }

    fn lock(&self, is_begun: bool) -> Result<(), ConvertError> {
        let file = lock(&self.root)?;
        let name = if is_begun { SPLIT_IDENTITY } else { IDENTITY_FILE };
        match read_identity(&self.root.join(name))? {
            Some(found) if found == self.identity => {
                *self.lock.borrow_mut() = Some(file);
                Ok(())
            }
            _ => Err(ConvertError::Failed(format!(
                "data directory {} was changed by another process; give the same command again",
                self.root.display()
            ))),
        }
    }

    fn note(&self) -> Result<(), ConvertError> {
        make_directory(&self.out)?;
        Note::Split(self.out.clone()).write(&self.root)
    }

    fn retire(&self) -> Result<(), ConvertError> {
        let from = self.root.join(IDENTITY_FILE);
        fs::rename(&from, self.root.join(SPLIT_IDENTITY)).map_err(failed_to("rename", &from))?;
        sync(&self.root)
    }

    fn assemble(&self, id: u32) -> Result<(), ConvertError> {
        let (draft, source) = (self.draft(id), self.source(id));
        make_directory(&draft)?;
        write_identity(&draft, &Identity::new(Mode::Replicated, &[id], self.identity.cluster_id.clone()))?;
        if source.exists() {
            fs::rename(&source, draft.join(format!("replica-{id}"))).map_err(failed_to("rename", &source))?;
        }
        sync(&draft)?;
        sync(&self.root)
    }

    fn publish(&self, id: u32) -> Result<(), ConvertError> {
        let draft = self.draft(id);
        // An empty directory in its place is replaced.
        fs::rename(&draft, self.target(id)).map_err(failed_to("rename", &draft))?;
        sync(&self.out)?;
        sync(&self.root)
    }
}

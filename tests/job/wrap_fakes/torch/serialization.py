import os
import pickle
import zipfile


def save(obj, f, pickle_module=pickle, pickle_protocol=2):
    """Writes in two parts. KILL_AT=middle ends the process between them; a path is written by its name, as torch's C++ does."""
    with zipfile.ZipFile(f, "w") as archive:
        archive.writestr("data.pkl", pickle_module.dumps(obj, pickle_protocol))
        if os.environ.get("KILL_AT") == "middle":
            archive.fp.flush()
            os.kill(os.getpid(), 9)
        archive.writestr("rest", b"x" * 100)


def load(f, weights_only=True):
    with zipfile.ZipFile(f) as archive:
        return pickle.loads(archive.open("data.pkl").read())

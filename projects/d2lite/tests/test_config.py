"""LazyConfig, instantiate, configurable and yacs configs."""

import builtins
import dataclasses
import itertools
import textwrap
from typing import Any

import cloudpickle
import pytest
import yaml
from detectron2.config import (
    CfgNode,
    LazyCall,
    LazyConfig,
    configurable,
    get_cfg,
    global_cfg,
    instantiate,
    set_global_cfg,
)
from detectron2.config.instantiate import dump_dataclass
from detectron2.utils.testing import reload_lazy_config
from omegaconf import DictConfig, ListConfig, OmegaConf

L = LazyCall


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


class Recorder:
    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs


@dataclasses.dataclass
class Point:
    x: int = 1
    y: Any = None


def record(**kwargs):
    return kwargs


# ---------------------------------------------------------------- LazyCall and instantiate


def test_lazy_call_describes_the_call():
    cfg = L(Recorder)(depth=3, rates=(1, 2), inner=L(record)(a=1))
    assert isinstance(cfg, DictConfig) and cfg._target_ is Recorder
    assert isinstance(cfg.rates, ListConfig)
    with pytest.raises(TypeError, match="must be a callable"):
        L(3)
    with pytest.raises(TypeError):
        L(Recorder)(1)


def test_instantiate_is_recursive():
    made = instantiate(L(Recorder)(a=L(record)(b=2), c=[L(record)(d=3), 4], e={"f": 5}))
    assert made.kwargs["a"] == {"b": 2}
    assert isinstance(made.kwargs["c"], ListConfig) and made.kwargs["c"][0] == {"d": 3}
    assert isinstance(made.kwargs["e"], DictConfig)


def test_instantiate_other_things():
    assert instantiate(5) == 5 and instantiate({"a": 1}) == {"a": 1}
    plain = {"a": {"_target_": record, "b": 1}}
    assert instantiate(plain) is plain  # no descent into a dict without a target
    assert instantiate([{"_target_": record, "b": 1}]) == [{"b": 1}]
    assert instantiate({"_target_": "builtins.dict", "b": 1}) == {"b": 1}


def test_recursion_can_be_turned_off():
    made = instantiate(L(Recorder)(_recursive_=False, a=L(record)(b=2)))
    assert made.kwargs["a"]._target_ is record
    assert "_recursive_" not in made.kwargs


def test_a_target_can_be_made_by_a_config():
    assert instantiate({"_target_": L(lambda: record)(), "a": 1}) == {"a": 1}


def test_instantiate_errors(caplog):
    with pytest.raises(AssertionError, match="callable"):
        instantiate({"_target_": 3})
    with pytest.raises(ImportError):
        instantiate({"_target_": "no_such_module.Thing"})
    with pytest.raises(TypeError):
        instantiate({"_target_": Point, "nope": 1})
    assert "Error when instantiating" in caplog.text and "Point" in caplog.text


def test_dataclasses():
    lazy = L(Point)(x=2, y=[1])
    assert isinstance(lazy._target_, str) and instantiate(lazy).x == 2
    nested = Point(3, [Point(4), 5])
    assert instantiate(dump_dataclass(nested)) == Point(3, [Point(4), 5])
    with pytest.raises(AssertionError):
        dump_dataclass(Point)
    assert instantiate(OmegaConf.structured(Point)) == Point()


# ---------------------------------------------------------------- loading


def test_relative_imports_execute_anew(write):
    write("base/shared.py", "cfg = dict(a=1, b=dict(c=2))\nlazy_list = [1, 2]")
    root = write(
        "leaf/root.py",
        """
        from ..base.shared import cfg
        from ..base.shared import cfg as again
        cfg.a = 5
        cfg.b.c = 7
        again_a = dict(value=again.a)
        number = 3
        _hidden = dict(x=1)
        """,
    )
    loaded = LazyConfig.load(root)
    assert isinstance(loaded, DictConfig)
    assert set(loaded) == {"cfg", "again", "again_a"}
    assert loaded.cfg.b.c == 7 and loaded.again_a.value == 1
    assert isinstance(LazyConfig.load(root, "cfg"), DictConfig)
    assert LazyConfig.load(root, "number") == 3
    cfg, number = LazyConfig.load(root, ("cfg", "number"))
    assert cfg.a == 5 and number == 3
    assert LazyConfig.load(root, ["number"]) == (3,)
    with pytest.raises(KeyError):
        LazyConfig.load(root, "absent")


def test_one_statement_shares_what_two_do_not(write):
    write("shared.py", "inner = dict(a=1)\nouter = dict(x=inner)")
    root = write("root.py", "from .shared import inner, outer\nfrom . import_me import deep")
    write("import_me.py", "from .shared import inner as deep")
    loaded = LazyConfig.load(root)
    assert loaded.inner.a == loaded.deep.a == 1


@pytest.mark.parametrize(
    "statement, words",
    [
        ("from .nothing import x", "does not exist"),
        ("from .folder import x", "directories"),
        ("from . import x", "directories"),
    ],
)
def test_wrong_imports(write, tmp_path, statement, words):
    (tmp_path / "folder").mkdir()
    original = builtins.__import__
    with pytest.raises(ImportError, match=words):
        LazyConfig.load(write("root.py", statement))
    assert builtins.__import__ is original


def test_import_of_a_missing_name(write):
    write("shared.py", "a = dict()")
    with pytest.raises(KeyError, match="has no such name"):
        LazyConfig.load(write("root.py", "from .shared import b"))


def test_broken_files(write):
    with pytest.raises(SyntaxError, match="has syntax error"):
        LazyConfig.load(write("root.py", "a = = 1"))
    with pytest.raises(ValueError, match="python or yaml"):
        LazyConfig.load(write("root.json", "{}"))
    with pytest.raises(FileNotFoundError):
        LazyConfig.load("no_such_file.py")


def test_traceback_names_the_file(write):
    path = write("root.py", "x = 1\ny = 1 / 0")
    with pytest.raises(ZeroDivisionError) as error:
        LazyConfig.load(path)
    assert str(error.traceback[-1].path) == path


def test_load_rel(write):
    write("dots.and-dashes.py", "a = dict(b=1)")
    root = write(
        "root.py",
        """
        from detectron2.config import LazyConfig
        a = LazyConfig.load_rel("dots.and-dashes.py", "a")
        """,
    )
    assert LazyConfig.load(root).a.b == 1


def test_yaml(write):
    path = write("c.yaml", "a: {b: 1}\nt: !!python/tuple [1, 2]\nname: !!python/name:int ''")
    loaded = LazyConfig.load(path)
    assert loaded.a.b == 1 and loaded.name is int
    assert LazyConfig.load(path, "a") == {"b": 1}


# ---------------------------------------------------------------- overrides


def make_cfg():
    return OmegaConf.create(
        {"model": {"depth": 2, "rates": [1, 3], "inner": {"a": 1}}, "lr": 0.1, "name": None}
    )


def test_apply_overrides():
    cfg = make_cfg()
    changed = LazyConfig.apply_overrides(
        cfg,
        [
            "model.depth=3",
            "model.rates=[1,2,5]",
            "lr=1e-3",
            "name='a b'",
            "model.inner={b:2}",
            "+model.fresh.deep=true",
            "++lr2=null",
            "model.rates.0=9",
        ],
    )
    assert changed is cfg
    assert cfg.model.depth == 3 and cfg.model.rates == [9, 2, 5] and cfg.lr == 1e-3
    assert cfg.name == "a b" and cfg.model.inner == {"a": 1, "b": 2}
    assert cfg.model.fresh.deep is True and cfg.lr2 is None
    assert LazyConfig.apply_overrides(cfg, []) is cfg


def test_wrong_overrides():
    from hydra.errors import OverrideParseException

    with pytest.raises(KeyError, match="is not a config"):
        LazyConfig.apply_overrides(make_cfg(), ["lr.x=1"])
    with pytest.raises(NotImplementedError, match="deletion"):
        LazyConfig.apply_overrides(make_cfg(), ["~lr"])
    with pytest.raises(OverrideParseException):
        LazyConfig.apply_overrides(make_cfg(), ["lr"])


# ---------------------------------------------------------------- saving


def test_save_and_load(tmp_path):
    cfg = DictConfig(
        {"model": L(Recorder)(a=1, b="${.a}", text="ü"), "t": (1, 2)},
        flags={"allow_objects": True},
    )
    LazyConfig.save(cfg, str(tmp_path / "c.yaml"))
    assert cfg.model._target_ is Recorder  # the caller's is left alone
    text = (tmp_path / "c.yaml").read_text()
    assert "${.a}" in text and "ü" in text and "Recorder" in text
    loaded = LazyConfig.load(str(tmp_path / "c.yaml"))
    assert loaded.model.b == 1 and loaded.t == [1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]
    assert reload_lazy_config(L(itertools.count)(start=3))._target_ == "itertools.count"


def test_unserializable_objects_go_to_a_pickle(tmp_path, caplog):
    offset = 3
    cfg = DictConfig({"f": lambda x: x + offset}, flags={"allow_objects": True})
    LazyConfig.save(cfg, str(tmp_path / "c.yaml"))
    assert "c.yaml.pkl" in caplog.text
    loaded = cloudpickle.loads((tmp_path / "c.yaml.pkl").read_bytes())
    assert loaded.f(1) == 4


def test_save_never_raises(tmp_path, caplog):
    class Uncopyable:
        def __reduce_ex__(self, protocol):
            raise RuntimeError("no")

    cfg = DictConfig({"x": Uncopyable()}, flags={"allow_objects": True})
    LazyConfig.save(cfg, str(tmp_path / "c.yaml"))
    assert "Unable to serialize" in caplog.text


def test_to_py():
    cfg = OmegaConf.create({"z": 1, "a": {"y": 1, "x": "it's"}, "list": ["a", 1, "b", 3.2]})
    cfg.call = L(itertools.count)(
        x={"a": 1, "b": 2, "c": L(itertools.count)(x={"r": "a", "s": 2.4, "t": [1, 2, 3, "z"]})},
        y="base_a_1_from_b",
    )
    assert LazyConfig.to_py(cfg) == textwrap.dedent("""\
        cfg.a.x = "it's"
        cfg.a.y = 1
        cfg.call = itertools.count(
            x={
                "a": 1,
                "b": 2,
                "c": itertools.count(x={"r": "a", "s": 2.4, "t": [1, 2, 3, "z"]}),
            },
            y="base_a_1_from_b",
        )
        cfg.list = ["a", 1, "b", 3.2]
        cfg.z = 1
        """)


def test_to_py_of_short_and_long_values():
    cfg = OmegaConf.create({"a": L(record)(k=list(range(40))), "b": "x" * 81, "c": 'say "x"'})
    text = LazyConfig.to_py(cfg)
    assert LazyConfig.to_py(cfg, prefix="").startswith("a = ")
    assert "record(\n    k=[\n        0,\n        1,\n" in text
    assert f'b = (\n    "{"x" * 81}"\n)\n' in text
    assert "c = 'say \"x\"'\n" in text


def test_to_py_of_objects_has_no_layout():
    cfg = DictConfig({"a": object(), "b": 1}, flags={"allow_objects": True})
    assert LazyConfig.to_py(cfg).splitlines()[1] == "cfg.b=1"


# ---------------------------------------------------------------- configurable


class Base:
    @configurable
    def __init__(self, a, b=2, c=3):
        self.values = (a, b, c)

    @classmethod
    def from_config(cls, cfg, b=20):
        return {"a": cfg.A, "b": b}


class Variadic(Base):
    @classmethod
    def from_config(cls, cfg, *args, **kwargs):
        assert "c" in kwargs
        return {"a": cfg.A, "c": kwargs["c"] + 1}


CONFIGS = [CfgNode({"A": 1}), OmegaConf.create({"A": 1})]


@pytest.mark.parametrize("cfg", CONFIGS)
def test_configurable_init(cfg):
    assert Base(7).values == (7, 2, 3)
    assert Base(cfg).values == (1, 20, 3)
    assert Base(cfg=cfg, b=5).values == (1, 5, 3)
    assert Base(cfg, 6).values == (1, 6, 3)
    assert Base(cfg, c=9).values == (1, 20, 9)
    assert Variadic(cfg, c=4).values == (1, 2, 5)


def test_configurable_needs_from_config():
    class Without:
        @configurable
        def __init__(self, a):
            pass

    class NotAClassmethod(Without):
        def from_config(self, cfg):
            return {}

    class WrongArgument(Without):
        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(AttributeError, match="from_config"):
        Without(1)
    with pytest.raises(TypeError, match="from_config"):
        NotAClassmethod(1)
    with pytest.raises(TypeError, match="'cfg' as the first argument"):
        WrongArgument(CONFIGS[0])


def test_configurable_function():
    @configurable(from_config=lambda cfg, b=0: {"a": cfg.A, "b": b})
    def function(a, b=1, c=2):
        """Documented."""
        return a, b, c

    assert function(5) == (5, 1, 2)
    assert function(CONFIGS[0], b=4, c=8) == (1, 4, 8)
    assert function.__doc__ == "Documented." and callable(function.from_config)
    assert configurable() is configurable
    with pytest.raises(AssertionError, match="Incorrect use"):
        configurable(lambda x: x)
    with pytest.raises(AssertionError, match="must be a function"):
        configurable(from_config=3)


# ---------------------------------------------------------------- yacs


def test_defaults():
    cfg = get_cfg()
    assert cfg.VERSION == 2 and cfg.MODEL.RPN.NMS_THRESH == 0.7
    assert cfg.SOLVER.STEPS == (30000,) and cfg.SOLVER.WEIGHT_DECAY_BIAS is None
    cfg.MODEL.RPN.NMS_THRESH = 0.1
    assert get_cfg().MODEL.RPN.NMS_THRESH == 0.7
    assert isinstance(cfg.MODEL.RPN, CfgNode)
    assert yaml.safe_load(cfg.dump())["OUTPUT_DIR"] == "./output"


def test_merge_with_base(write):
    write("base.yaml", "MODEL: {WEIGHTS: w, RPN: {NMS_THRESH: 0.6}}\nVERSION: 2")
    leaf = write("leaf.yaml", "_BASE_: base.yaml\nMODEL: {RPN: {NMS_THRESH: 0.5}}")
    cfg = get_cfg()
    cfg.merge_from_file(leaf)
    assert cfg.MODEL.WEIGHTS == "w" and cfg.MODEL.RPN.NMS_THRESH == 0.5
    cfg.merge_from_list(["SOLVER.MAX_ITER", "3"])
    assert cfg.SOLVER.MAX_ITER == 3
    with pytest.raises(AssertionError, match="does not exist"):
        cfg.merge_from_file("no_such_file.yaml")
    with pytest.raises(KeyError):
        cfg.merge_from_file(write("odd.yaml", "VERSION: 2\nMODEL: {NOPE: 1}"))


def test_versions(write, caplog):
    cfg = get_cfg()
    cfg.merge_from_file(write("latest.yaml", "MODEL: {WEIGHTS: u}"))
    assert cfg.MODEL.WEIGHTS == "u" and "latest v2" in caplog.text
    with pytest.raises(AssertionError, match="v3"):
        cfg.merge_from_file(write("future.yaml", "VERSION: 3"))
    with pytest.raises(AssertionError, match="old.yaml.*doesn't convert"):
        cfg.merge_from_file(write("old.yaml", "VERSION: 1\nMODEL: {WEIGHT: w}"))
    with pytest.raises(KeyError, match="MODEL.WEIGHT"):
        cfg.merge_from_file(write("guess.yaml", "MODEL: {WEIGHT: v}"))


def test_global_cfg():
    set_global_cfg(get_cfg())
    assert global_cfg.MODEL.DEVICE == "cuda"
    set_global_cfg(CfgNode({"A": 1}))
    assert dict(global_cfg) == {"A": 1}
    global_cfg.clear()

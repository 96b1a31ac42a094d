import tempfile
import unittest

from config import Config, ConfigError, DrainPolicy, Settings


class LoadTest(unittest.TestCase):
    def test_defaults(self) -> None:
        config = Config.load({}.get)
        self.assertEqual((str(config.host), config.port, config.admin_port), ("127.0.0.1", 8080, 9090))
        self.assertEqual((config.max_connections, config.drain_policy), (1000, DrainPolicy.SERVE))

    def test_empty_counts_as_unset(self) -> None:
        self.assertEqual(Config.load({"DRAIN_TIMEOUT": ""}.get).drain_timeout, 30)

    def test_bad_values(self) -> None:
        for name, value in [
            ("HOST", "localhost"),
            ("PORT", "65536"),
            ("PORT", "-1"),
            ("PORT", " 80"),
            ("MAX_IN_FLIGHT", "0"),
            ("MAX_IN_FLIGHT", "1_000"),
            ("MAX_IN_FLIGHT", "\N{ARABIC-INDIC DIGIT ONE}"),
            ("MAX_BODY_BYTES", "9" * 5000),
            ("DRAIN_TIMEOUT", "1e3"),
            ("DRAIN_TIMEOUT", "5\n"),
            ("DRAIN_TIMEOUT", ".5"),
            ("DRAIN_TIMEOUT", "86401"),
            ("HEADER_TIMEOUT", "0"),
            ("IDLE_LINGER", "31"),
            ("DRAIN_POLICY", "Serve"),
            ("CONFIG_FILE", "/does/not/exist"),
        ]:
            with self.subTest(name=name, value=value):
                with self.assertRaises(ConfigError) as caught:
                    Config.load({name: value}.get)
                self.assertTrue(str(caught.exception).startswith(f"{name}: "))
                self.assertNotIn("\n", str(caught.exception))


class ReloadTest(unittest.TestCase):
    def setUp(self) -> None:
        self.file = tempfile.NamedTemporaryFile("w")  # noqa: SIM115
        self.addCleanup(self.file.close)
        self.lookup = {"CONFIG_FILE": self.file.name, "DRAIN_TIMEOUT": "7"}.get

    def write(self, text: str) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.file.write(text)
        self.file.flush()

    def test_file_overrides_environment(self) -> None:
        self.write("# a comment\n\nDRAIN_TIMEOUT = 8\n")
        self.assertEqual(Config.load(self.lookup).drain_timeout, 8)

    def test_bad_line(self) -> None:
        self.write("\nDRAIN_TIMEOUT\n")
        with self.assertRaisesRegex(ConfigError, ":2: .*NAME=value"):
            Config.load(self.lookup)

    def test_reload(self) -> None:
        settings = Settings(Config.load(self.lookup), self.lookup)
        self.write("DRAIN_TIMEOUT=9\nMAX_IN_FLIGHT=5\n")
        self.assertEqual(settings.reload(), ["DRAIN_TIMEOUT", "MAX_IN_FLIGHT"])
        self.assertEqual((settings.current.drain_timeout, settings.current.max_in_flight), (9, 5))

    def test_bad_file_leaves_old_values(self) -> None:
        settings = Settings(Config.load(self.lookup), self.lookup)
        self.write("DRAIN_TIMEOUT=9\nMAX_IN_FLIGHT=none\n")
        with self.assertRaises(ConfigError):
            settings.reload()
        self.assertEqual(settings.current.drain_timeout, 7)

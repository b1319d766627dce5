"""What to do about a weakness: a pure table from rule numbers and kinds of secret to a sentence.

The numbers are those that ruff's S rules and bandit's B rules share. The texts name the fix, not the flaw, and never
depend on the audited code, so they cannot repeat any of it.
"""

from __future__ import annotations

from cas_events.agents.security_audit.findings import Weakness
from cas_events.agents.security_audit.report import Remediation

_ROTATE = "Treat it as leaked: revoke and replace it at its issuer, then load the new one from the environment or a secret store"
_SAFE_XML = "Parse untrusted XML with defusedxml, which refuses entity expansion and external entities."
_NO_PICKLE = "Do not load untrusted data with it: use JSON or msgpack, or verify a signature first."
_NO_SHELL = (
    "Pass a list of arguments and leave shell=False; if a shell is needed, quote every part with shlex.quote."
)
_TLS = "Use ssl.create_default_context(), which verifies certificates and refuses old protocol versions."
_ENCRYPTED = "The protocol sends credentials in clear text: use an encrypted one (SSH, SFTP, HTTPS)."
_IMPORT = "Check that no untrusted data reaches the module, or remove the import if it is unused."

_BY_NUMBER: dict[int, str] = {
    101: "Raise an explicit error: assert statements vanish under python -O.",
    102: "Replace exec with a dispatch table or ast.literal_eval; never feed it outside data.",
    103: "Give the file the least permissions that work, such as 0o600 or 0o640.",
    104: "Bind to 127.0.0.1, or to an address from the settings; 0.0.0.0 opens the port to every network.",
    105: f"{_ROTATE}; compare with hmac.compare_digest.",
    106: f"{_ROTATE}, and pass it in as a variable.",
    107: f"{_ROTATE}; make the parameter required or default it to None.",
    108: "Create the file with tempfile.NamedTemporaryFile or mkdtemp instead of a fixed name in a shared folder.",
    110: "Catch the exception that is meant and log it, or let it pass up; silence hides attacks as well as bugs.",
    112: "Catch the exception that is meant and log it before going on with the loop.",
    113: "Pass timeout= so that a silent server cannot hold the caller for ever.",
    201: "Run Flask without debug=True outside development: its debugger executes code for whoever reaches it.",
    202: "Extract with tarfile's filter='data', which refuses paths out of the folder, links and devices.",
    301: _NO_PICKLE,
    302: _NO_PICKLE,
    303: "Use SHA-256 or BLAKE2; for a checksum without a security purpose pass usedforsecurity=False.",
    304: "Use an authenticated modern cipher: AES-GCM or ChaCha20-Poly1305.",
    305: "Use an authenticated mode such as GCM instead of ECB.",
    306: "Use tempfile.mkstemp or NamedTemporaryFile: mktemp leaves time to put another file in its place.",
    307: "Use ast.literal_eval for literals, or a parser for the format; never eval outside data.",
    308: "Build the markup with format_html or templates that escape, instead of marking text as safe.",
    310: "Allow http and https only before opening the URL: urlopen also reads file: and custom schemes.",
    311: "Use the secrets module for tokens, keys and anything that must not be guessed.",
    312: _ENCRYPTED,
    321: _ENCRYPTED,
    323: _TLS,
    324: "Use SHA-256 or BLAKE2; for a checksum without a security purpose pass usedforsecurity=False.",
    403: _IMPORT,
    404: _IMPORT,
    413: "Move from the abandoned PyCrypto to the cryptography package.",
    501: "Leave certificate verification on; for a private authority pass its bundle with verify='/path/ca.pem'.",
    502: _TLS,
    503: _TLS,
    504: _TLS,
    505: "Generate RSA and DSA keys of at least 2048 bits (better 3072), or use Ed25519.",
    506: "Use yaml.safe_load: yaml.load can build any Python object from the document.",
    507: "Keep host key verification on (RejectPolicy) and ship the known_hosts that you expect.",
    508: "Use SNMPv3: versions 1 and 2c send the community string in clear text.",
    509: "Use SNMPv3 with both authentication and privacy (authPriv).",
    601: "Quote every part of the remote command with shlex.quote, or send data through standard input.",
    602: _NO_SHELL,
    603: "Make sure that no argument comes unchecked from outside; put -- before arguments that could look like options.",
    604: _NO_SHELL,
    605: "Use subprocess.run with a list of arguments instead of a shell command.",
    606: "Make sure that neither the program nor its arguments come unchecked from outside.",
    607: "Name the program by its absolute path, or resolve it once with shutil.which: PATH decides otherwise.",
    608: "Pass values as query parameters; build identifiers only from a fixed list.",
    609: "Expand wildcards in Python with glob: the shell turns file names into options.",
    610: "Use annotations and Q objects instead of extra(), or pass values through its params.",
    611: "Pass values through params instead of formatting them into the SQL.",
    612: "Authenticate the listener with verify=, or load the logging configuration from a file.",
    613: "Catch the exception that is meant and log it.",
    614: "Load with weights_only=True: a full PyTorch checkpoint can execute code.",
    615: "Pin the revision of what is downloaded, so that it cannot be exchanged.",
    701: "Turn autoescape on (select_autoescape()) so that values cannot become markup.",
    702: "Pass default_filters=['h'], or escape every value in the template: Mako does not by itself.",
    703: "Build the markup with format_html or templates that escape, instead of marking text as safe.",
    704: "Hand only constant text to Markup; combine values with its format method, which escapes them.",
}
_BY_HUNDRED = {
    300: "Replace the call with a safe alternative, or prove that no untrusted data reaches it.",
    400: _IMPORT,
    500: "Use current cryptography with its defaults: verified certificates, long keys, modern protocols.",
    600: "Make sure that no data from outside reaches the command or query unescaped.",
    700: "Escape every value that reaches markup.",
}
_XML_NUMBERS = range(313, 321)

_BY_SECRET: dict[str, str] = {
    "Private Key": "Treat the key as leaked: issue a new pair, remove the old public key wherever it is trusted, and keep the "
    "new private key outside the repository.",
    "Basic Auth Credentials": "Change the password, take user and password out of the URL, and load them from the environment or a "
    "secret store.",
    "Public IP (ipv4)": "Move the address into the settings if it should not be public.",
    "Secret Keyword": f"{_ROTATE}. If it is a placeholder, mark the line with `pragma: allowlist secret`.",
    "Base64 High Entropy String": f"If it is a secret: {_ROTATE.lower()}. If not, mark the line with `pragma: allowlist secret`.",
    "Hex High Entropy String": f"If it is a secret: {_ROTATE.lower()}. If not, mark the line with `pragma: allowlist secret`.",
}
_ANY_SECRET = f"{_ROTATE}; it also stays in the version history until that is rewritten."
_ANY = "Look the rule up in the tool's manual and change the code, or record why it does not apply."


def remedy(weakness: Weakness) -> str:
    """What to do about it, in a sentence or two."""
    if weakness.secret:
        texts = [_BY_SECRET[rule] for rule in weakness.rules if rule in _BY_SECRET]
        return texts[0] if len(texts) == len(weakness.rules) == 1 else _secret_remedy(weakness)
    if weakness.number in _XML_NUMBERS or 405 <= weakness.number <= 409:
        return _SAFE_XML
    return _BY_NUMBER.get(weakness.number) or _BY_HUNDRED.get(weakness.number // 100 * 100, _ANY)


def _secret_remedy(weakness: Weakness) -> str:
    """Of several matches on a line, the most telling one decides: a known key, then a password rule."""
    for kind in ("Private Key", "Basic Auth Credentials"):
        if kind in weakness.rules:
            return _BY_SECRET[kind]
    for number in (105, 106, 107):
        if f"S{number}" in weakness.rules or f"B{number}" in weakness.rules:
            return _BY_NUMBER[number]
    return _ANY_SECRET


def remediation(weakness: Weakness) -> Remediation:
    """A weakness with its remedy."""
    return Remediation(
        severity=weakness.severity,
        file=weakness.file,
        line=weakness.line,
        title=weakness.title,
        rules=weakness.rules,
        tools=weakness.tools,
        remedy=remedy(weakness),
    )

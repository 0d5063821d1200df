"""Compares a folder as transformers computes it with what `sdp eval --logits` wrote (see ./transformers).

Tolerances, relative to the largest logit: f32 5e-6, since both sum in f32, in another order, over a few layers; bf16 the same,
as both widen the same bf16 weights to f32. Losses 1e-6 relative. Text must survive the tokenizer byte by byte.
"""
import argparse
import json
import subprocess
import sys

TOLERANCE = 5e-6
LOSS_TOLERANCE = 1e-6


def write_text(path):
    lines = []
    for i in range(300):
        lines.append(f"The sum of {i % 23} and {i % 7} is {i % 23 + i % 7}, naïve café № {i % 9}.\n")
        lines.append("Ключ κλειδί 鍵 مفتاح 🔑\t\x01\x7f\r\n")
    with open(path, "wb") as file:
        file.write("".join(lines).encode("utf-8"))


def check(ok, what):
    print(("ok    " if ok else "FAIL  ") + what)
    return ok


def compare_tokenizer(folder, text):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    good = True
    everything = "".join(map(chr, range(0xD800))) + text  # all of one, two and many of three bytes
    for kind in (AutoTokenizer, PreTrainedTokenizerFast):
        tokenizer = kind.from_pretrained(folder)
        ids = tokenizer(everything)["input_ids"]
        good &= check(ids == list(everything.encode("utf-8")), f"{folder}: {kind.__name__}: ids are the text's bytes")
        good &= check(tokenizer.decode(ids) == everything, f"{folder}: {kind.__name__}: decoding gives the text back")
        good &= check(not tokenizer.all_special_ids, f"{folder}: {kind.__name__}: no special tokens")
    return good


def compare_logits(folder, text):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = load_file(folder + ".safetensors")
    samples, length = ours["tokens"].shape
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])[: samples * length + 1]
    good = check(torch.equal(ids[:-1].view(samples, length), ours["tokens"]), f"{folder}: same tokens through the tokenizer")
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    clean = not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    good &= check(clean and type(model).__name__ == "LlamaForCausalLM", f"{folder}: loads as {type(model).__name__}")
    with torch.no_grad():
        logits = model(ours["tokens"]).logits
    largest = ours["logits"].abs().max().item()
    difference = (logits - ours["logits"]).abs().max().item()
    good &= check(difference <= TOLERANCE * largest,
                  f"{folder}: logits differ by at most {difference:.2e}, of {largest:.2f}: {difference / largest:.2e} relative")
    with open(folder + ".json") as file:
        loss = json.load(file)["loss"]
    theirs = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), ids[1:]).item()
    good &= check(abs(theirs - loss) <= LOSS_TOLERANCE * loss,
                  f"{folder}: loss {loss:.7f}, theirs {theirs:.7f}: {abs(theirs - loss) / loss:.2e} relative")
    return good, model


def compare_saved(model, folder, sdp):
    """What transformers writes, we read."""
    from transformers import AutoTokenizer

    saved = folder + "-saved"
    model.save_pretrained(saved, max_shard_size="100KB")
    AutoTokenizer.from_pretrained(folder).save_pretrained(saved)
    command = [sdp, "eval", saved, "--data", "text.txt", "--samples", "16", "--json"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        return check(False, f"{saved}: {result.stderr.strip()}")
    with open(folder + ".json") as file:
        loss = json.load(file)["loss"]
    again = json.loads(result.stdout)["loss"]
    return check(abs(again - loss) <= LOSS_TOLERANCE * loss, f"{saved}: saved by transformers and read by sdp: loss {again:.7f}")


def make_random(folder, tied):
    """A LLaMA of random weights, large enough that its logits differ; in bf16 and several files."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, intermediate_size=96,
                         vocab_size=256, max_position_embeddings=128, rope_theta=2e4, initializer_range=0.2,
                         tie_word_embeddings=tied, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="100KB")


def compare_pretrained(folder, run, text):
    """The full model of a run that has just started from the folder is the folder's model."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    ours = load_file(run + ".safetensors")
    samples, length = ours["tokens"].shape
    ids = torch.tensor(list(text.encode("utf-8"))[: samples * length + 1])
    good = check(torch.equal(ids[:-1].view(samples, length), ours["tokens"]), f"{folder}: same tokens")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(ours["tokens"]).logits
    largest = ours["logits"].abs().max().item()
    difference = (logits - ours["logits"]).abs().max().item()
    good &= check(difference <= TOLERANCE * largest,
                  f"{run}: logits differ by at most {difference:.2e}, of {largest:.2f}: {difference / largest:.2e} relative")
    with open(run + "/metrics.jsonl") as file:
        loss = json.loads(file.readline())["full_loss"]
    # The run evaluates the whole text, in samples that lie one behind the other.
    everything = torch.tensor(list(text.encode("utf-8")))
    whole = (len(everything) - 1) // length
    with torch.no_grad():
        logits = model(everything[: whole * length].view(whole, length)).logits
    theirs = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), everything[1 : whole * length + 1]).item()
    return good & check(abs(theirs - loss) <= LOSS_TOLERANCE * loss,
                        f"{run}: full loss at step 0 {loss:.7f}, theirs {theirs:.7f}: {abs(theirs - loss) / loss:.2e} relative")


def compare_generation(model, folder, head):
    from transformers import AutoTokenizer

    with open(head + "-generated.txt", "rb") as file:
        ours = file.read()[:-1]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("The sum of ", return_tensors="pt")
    theirs = model.generate(input_ids=prompt["input_ids"], attention_mask=prompt["attention_mask"], max_new_tokens=40, do_sample=False)
    return check(bytes(theirs[0].tolist()) == ours, f"{folder}: greedy text is the same: {ours!r}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--write-text")
    parser.add_argument("--head")
    parser.add_argument("--text")
    parser.add_argument("--sdp")
    parser.add_argument("--make-random")
    parser.add_argument("--pretrained")
    parser.add_argument("--run")
    arguments = parser.parse_args()
    if arguments.write_text:
        write_text(arguments.write_text)
        return 0
    if arguments.make_random:
        make_random(arguments.make_random, arguments.head == "tied")
        return 0
    with open(arguments.text, "rb") as file:
        text = file.read().decode("utf-8")
    if arguments.pretrained:
        return 0 if compare_pretrained(arguments.pretrained, arguments.run, text) else 1
    good = compare_tokenizer(arguments.head + "-f32", text)
    for kind in ("f32", "bf16", "parts"):
        folder = f"{arguments.head}-{kind}"
        same, model = compare_logits(folder, text)
        good &= same
        if kind == "f32":
            good &= compare_generation(model, folder, arguments.head)
            good &= compare_saved(model, folder, arguments.sdp)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

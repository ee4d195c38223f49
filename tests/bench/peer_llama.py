"""llama.cpp beside us: decoding with a decoder of SmolVLM's shape and random weights.

  python tests/bench/peer_llama.py 256m|500m [--dtype fp32|bf16] [--threads N] [--slots 1,16] [--context N]

Prints one JSON object a line. Needs llama-cpp-python, gguf and numpy. The file goes to /dev/shm and away again.
"""
import argparse, ctypes, json, os, tempfile, time
import gguf
import numpy as np
import llama_cpp as ll

SHAPES = {"256m": (576, 1536, 30, 9, 3, 49280), "500m": (960, 2560, 32, 15, 5, 49280)}
HEAD = 64


def write(path, shape, bf16):
    width, mlp, layers, heads, kv, vocab = shape
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(layers)
    w.add_context_length(8192)
    w.add_embedding_length(width)
    w.add_feed_forward_length(mlp)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(HEAD)
    w.add_rope_freq_base(100000.0)
    w.add_vocab_size(vocab)
    w.add_string("tokenizer.ggml.model", "no_vocab")
    rng = np.random.default_rng(1)
    noise = (rng.standard_normal(vocab * width) * 0.02).astype(np.float32)
    kind = gguf.GGMLQuantizationType.BF16 if bf16 else gguf.GGMLQuantizationType.F32

    def matrix(name, n, k):
        x = noise[: n * k].reshape(n, k)
        if bf16:
            x = (x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(n, 2 * k)
        w.add_tensor(name, x, raw_dtype=kind)

    def norm(name):
        w.add_tensor(name, np.ones(width, np.float32))

    matrix("token_embd.weight", vocab, width)
    for i in range(layers):
        b = f"blk.{i}."
        norm(b + "attn_norm.weight")
        norm(b + "ffn_norm.weight")
        for name, n, k in (("attn_q", heads * HEAD, width), ("attn_k", kv * HEAD, width), ("attn_v", kv * HEAD, width),
                           ("attn_output", width, heads * HEAD), ("ffn_gate", mlp, width), ("ffn_up", mlp, width),
                           ("ffn_down", width, mlp)):
            matrix(b + name + ".weight", n, k)
    norm("output_norm.weight")
    matrix("output.weight", vocab, width)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def batch_of(tokens, positions, sequences, logits):
    n = len(tokens)
    b = ll.llama_batch_init(n, 0, 1)
    b.n_tokens = n
    for i in range(n):
        b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = tokens[i], positions[i], 1, logits[i]
        b.seq_id[i][0] = sequences[i]
    return b


def run(ctx, b):
    if ll.llama_decode(ctx, b) != 0:
        raise SystemExit("llama_decode failed")
    ll.llama_batch_free(b)


def decode(model, vocab, slots, context, threads, steps):
    """Best seconds of a step of `slots` sequences behind `context` tokens each."""
    p = ll.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = (context + steps + 8) * slots, 512, 512, slots
    p.n_threads = p.n_threads_batch = threads
    ctx = ll.llama_init_from_model(model, p)
    rng = np.random.default_rng(2)
    for s in range(slots):
        for at in range(0, context, 512):
            n = min(512, context - at)
            run(ctx, batch_of(rng.integers(4, vocab, n), range(at, at + n), [s] * n, [False] * n))
    times = []
    for i in range(steps):
        b = batch_of(rng.integers(4, vocab, slots), [context + i] * slots, range(slots), [True] * slots)
        t = time.perf_counter()
        run(ctx, b)
        times.append(time.perf_counter() - t)
    ll.llama_free(ctx)
    return min(times), sorted(times)[len(times) // 2]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("shape", choices=SHAPES)
    ap.add_argument("--dtype", default="bf16")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--slots", default="1,16")
    ap.add_argument("--context", type=int, default=256)
    ap.add_argument("--steps", type=int, default=24)
    a = ap.parse_args()
    quiet = ll.llama_log_callback(lambda level, text, data: None)
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    ll.llama_backend_init()
    shape = SHAPES[a.shape]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = folder + "/random.gguf"
        write(path, shape, a.dtype == "bf16")
        model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
    for slots in map(int, a.slots.split(",")):
        best, median = decode(model, shape[-1], slots, a.context, a.threads, a.steps)
        print(json.dumps({"name": f"decode/{slots}", "peer": "llama.cpp", "value": slots / best, "unit": "tokens/s",
                          "median": slots / median, "dtype": a.dtype, "model": a.shape, "threads": a.threads}), flush=True)


if __name__ == "__main__":
    main()

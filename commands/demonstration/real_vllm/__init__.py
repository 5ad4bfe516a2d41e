"""What `poolpilot demo-vllm` is made of beside the demo's own parts: real vLLM servers on the CPU, paced as GPUs."""
